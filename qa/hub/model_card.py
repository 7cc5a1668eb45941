"""The model card: all that a published model says of itself, from what its run left on disk."""

import importlib.metadata
import json
import os
import platform
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qa.data.checks import as_list
from qa.io import run_folder
from qa.io.run_folder import RUN, SETTINGS
from qa.options.arguments import REPOSITORY
from qa.options.saved import published_names
from qa.options.table import TABLE, find_option
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "huggingface_hub")
SQUAD = {  # data set on the Hub: its name and its licence
    "rajpurkar/squad": ("SQuAD 1.1", "CC BY-SA 4.0"),
    "rajpurkar/squad_v2": ("SQuAD 2.0", "CC BY-SA 4.0"),
}
SCORES = {"exact_match": "Exact match", "exact": "Exact match", "f1": "F1"}
PARTS = {"HasAns_exact": "Exact match, with answer", "HasAns_f1": "F1, with answer"}
PARTS |= {"NoAns_exact": "Exact match, without answer", "NoAns_f1": "F1, without answer"}


def record_run(argv: list[str], settings: dict, seconds: float, memory: str, resumed: bool) -> dict:
    """What a card needs beside settings and scores, known only where and when the run ends; names no place."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "memory": memory,
        "hardware": f"{' + '.join(gpus)}, {cores}" if gpus else f"{cores}, no GPU",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
        "command": clean_command(argv),
        "random_start": bool(settings["config_name"]),
        "base_model": hub_name(settings["model_name_or_path"]),
        "dataset": hub_names(settings["dataset_name"]),
    }


def hub_name(name: str | None) -> str | None:
    """The name if it is one on the Hub, None if it is a folder's."""
    return None if not name or is_place(name) else name


def hub_names(names: str | list | None) -> str | list | None:
    """One name or several if all are on the Hub, else None."""
    return names if names and all(hub_name(name) for name in as_list(names)) else None


def is_place(text: str) -> bool:
    """Whether a value names a file or folder of this machine."""
    return text.startswith(("/", "~", "./", "../", "\\")) or text[1:3] in (":\\", ":/") or os.path.exists(text)


def clean_command(argv: list[str]) -> str:
    """Return the command as it was typed, with the last part of each path only and without private options."""
    words = ["python", f"{Path(argv[0]).stem}.py"]
    options: list[list[str]] = []
    for word in argv[1:]:
        if word.startswith("--") or not options:
            name, separator, value = word.partition("=")
            options.append([name, value] if separator else [name])
        else:
            options[-1].append(word)
    for name, *values in options:
        if find_option(name[2:]).private:
            continue
        for value in values:
            inside = name == "--config" and Path(value).resolve().is_relative_to(REPOSITORY)
            if inside:
                value = Path(value).resolve().relative_to(REPOSITORY).as_posix()
            elif is_place(value):
                value = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
            name = f"{name} {shlex.quote(value)}"
        words.append(name)
    return " ".join(words)


def load_json(path: Path) -> dict:
    """Raises UserError for a file that is not JSON; nothing where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise UserError(f"{path}: not JSON; is this the folder of a finished run?") from None


def published_settings(folder: Path) -> dict:
    """The run's settings as they are sent: no path, no name of a user, no place to write to."""
    path = folder / SETTINGS
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError:
        raise UserError(f"{path}: not YAML") from None
    run = load_json(folder / RUN)
    names = {"model_name_or_path": run.get("base_model"), "dataset_name": run.get("dataset")}
    settings = {name: settings[name] for name in published_names() if settings.get(name) is not None} | names
    if not names["dataset_name"]:
        settings = {name: value for name, value in settings.items() if find_option(name).belongs_to != "sources"}
    return {name: value for name, value in settings.items() if value is not None}


def make_card(folder: Path, repository: str) -> ModelCard:
    """The card of the model in ``folder`` under the name ``repository`` (USER/NAME)."""
    settings, run = published_settings(folder), load_json(folder / RUN)
    scores, trained = load_json(folder / run_folder.SCORES), load_json(folder / run_folder.FINISHED)
    config, tokenizer = load_json(folder / run_folder.CONFIG), load_json(folder / run_folder.TOKENIZER_CONFIG)
    name, licence = data_name(settings)
    data = ModelCardData(
        language="en" if licence else None,
        library_name="transformers",
        pipeline_tag="question-answering",
        tags=["extractive-qa"],
        datasets=as_list(settings.get("dataset_name")) or None,
        base_model=settings.get("model_name_or_path"),
        metrics=[metric for metric in SCORES if metric in scores] or None,
        model_name=repository.split("/")[1],
        eval_results=[
            EvalResult(
                task_type="question-answering",
                task_name="Extractive question answering",
                dataset_type=next(iter(as_list(settings.get("dataset_name"))), "custom"),  # the one with the validation
                dataset_name=data_name(settings, first=True)[0],
                dataset_config=first_config(settings),
                dataset_split="train" if "validation_split_percentage" in settings else "validation",
                metric_type=metric,
                metric_name=label,
                metric_value=round(scores[metric], 4),
            )
            for metric, label in SCORES.items()
            if metric in scores
        ]
        or None,
    )
    has_unanswerable = bool(settings.get("version_2_with_negative"))
    sections = [
        f"# {repository.split('/')[1]}",
        what_it_is(config, settings, run, name, has_unanswerable),
        scores_section(scores, settings, (folder / run_folder.CURVES).is_file()),
        usage_section(repository, config, tokenizer, settings),
        data_section(settings, name, licence, trained, scores),
        training_section(settings, run, trained),
        limits_section(has_unanswerable),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def first_config(settings: dict) -> str | None:
    """The configuration of the dataset that has the validation."""
    config = next(iter(as_list(settings.get("dataset_config_name"))), None)
    return None if config in ("null", "none", "") else config


def data_name(settings: dict, first: bool = False) -> tuple[str, str | None]:
    """The data's name and licence, None where we do not know that. With ``first`` of the first dataset only."""
    names = as_list(settings.get("dataset_name"))[: 1 if first else None]
    known = [SQUAD.get(name, (name, None)) for name in names] or [("own data in SQuAD format", None)]
    licence = known[0][1] if len({licence for _, licence in known}) == 1 else None
    return " and ".join(name for name, _ in known), licence


def rows(cells: list[tuple]) -> str:
    """A Markdown table with the first pair as its head."""
    lines = [f"| {' | '.join(str(cell).replace('|', ' ') for cell in row)} |" for row in cells]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])


def what_it_is(config: dict, settings: dict, run: dict, name: str, has_unanswerable: bool) -> str:
    base, kind = settings.get("model_name_or_path"), config.get("model_type", "transformer")
    if base:
        origin = f"[{base}](https://huggingface.co/{base}), fine-tuned"
    else:
        start = "from random weights" if run.get("random_start") else "from a checkpoint that is not on the Hub"
        origin = f"An encoder of type `{kind}`, trained {start}"
    nothing = "; where the text holds no answer, it says so" if has_unanswerable else ""
    return (
        "An extractive question-answering model: given a question and a text, it points at the answer in the text"
        f"{nothing}. {origin} on {name}."
    )


def scores_section(scores: dict, settings: dict, curves: bool) -> str:
    held = settings.get("validation_split_percentage")
    cells = [("score", f"{held}% of the training questions, held out" if held else "validation")]
    cells += [(label, f"{scores[key]:.2f}") for key, label in (SCORES | PARTS).items() if key in scores]
    text = "## Scores\n\n" + (rows(cells) if len(cells) > 1 else "No scores were recorded.")
    if "examples" in scores:
        text += (
            f"\n\nOver {scores['examples']:,} questions, computed as the official script does, of these very weights."
        )
    threshold = settings.get("null_score_diff_threshold")
    if settings.get("version_2_with_negative") and threshold is not None:
        text += f" No answer is given where its score exceeds the best answer's by more than {threshold:g}."
    return text + ("\n\n![Loss and F1 during training](" + run_folder.CURVES + ")" if curves else "")


def usage_section(repository: str, config: dict, tokenizer: dict, settings: dict) -> str:
    """Code that runs as it stands; for a text that fits into one window."""
    types = ", return_token_type_ids=True" if config.get("type_vocab_size", 0) >= 2 else ""
    swap = tokenizer.get("padding_side") == "left"
    pair, side = ("context, question", "only_first") if swap else ("question, context", "only_second")
    length, longest = settings.get("max_seq_length", 384), settings.get("max_answer_length", 30)
    result = "context[inputs.token_to_chars(first).start : inputs.token_to_chars(last).end]"
    nothing = ""
    if settings.get("version_2_with_negative"):
        cls, threshold = -1 if swap else 0, settings.get("null_score_diff_threshold", 0.0)
        nothing = f"null = output.start_logits[0, {cls}] + output.end_logits[0, {cls}]\n"
        result = f'{result} if null - scores[first, last] <= {threshold:g} else "(no answer)"'
    return f"""## How to use it

```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repository}")
model = AutoModelForQuestionAnswering.from_pretrained("{repository}").eval()

question, context = "Who wrote it?", "It was written by Ann."
inputs = tokenizer({pair}, truncation="{side}", max_length={length}{types}, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
outside = torch.tensor([part != {int(not swap)} for part in inputs.sequence_ids(0)])
start, end = (x[0].masked_fill(outside, -1e9) for x in (output.start_logits, output.end_logits))
scores = start[:, None] + end
allowed = torch.ones_like(scores).triu().tril({longest - 1}).bool()  # in order, at most {longest} tokens
first, last = divmod(int(scores.masked_fill(~allowed, -2e9).argmax()), len(start))
{nothing}print({result})
```

A longer text needs windows, and several answers their ranking: with the repository that trained this model,

```python
from ask import pipeline

answerer = pipeline("question-answering", model="{repository}")
answerer(question="Who wrote it?", context="It was written by Ann.", top_k=3)
```"""


def data_section(settings: dict, name: str, licence: str | None, trained: dict, scores: dict) -> str:
    names = as_list(settings.get("dataset_name"))
    links = [f"[{data_name({'dataset_name': each})[0]}](https://huggingface.co/datasets/{each})" for each in names]
    text = " and ".join(links) if links else f"{name[0].upper()}{name[1:]}"
    text += f", licence {licence}." if licence else "; see the data's own licence."
    if "features" in trained:
        text += f" Training took {trained['features']:,} windows of it"
        text += f", the scores {scores['examples']:,} questions." if "examples" in scores else "."
    return f"## Training data\n\n{text}"


def training_section(settings: dict, run: dict, trained: dict) -> str:
    default = TrainingOptions(output_dir="").to_dict()
    cells = [("hyperparameter", "value")]
    always = [row.name for row in TABLE.values() if row.published == "always"]
    cells += [(name, settings.get(name, default[name])) for name in always]
    cells += [(name, settings[name]) for name in published_names() if name in settings and name not in always]
    facts = [("what", "figure")]
    if "seconds" in run:
        time = f"{run['seconds'] / 60:.1f} minutes, evaluations included"
        facts.append(("time", time + (", since the last resumption" if run.get("resumed") else "")))
    if "samples_per_second" in trained:
        facts.append(("speed", f"{trained['samples_per_second']:.1f} windows per second"))
    if "loss" in trained:
        facts.append(("training loss", f"{trained['loss']:.4f}"))
    facts += [(label, run[key]) for key, label in (("hardware", "hardware"), ("memory", "peak memory")) if key in run]
    if "versions" in run:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())))
    text = "## Training\n\n" + rows(cells)
    if len(facts) > 1:
        text += "\n\n" + rows(facts)
    if "command" in run:
        text += (
            f"\n\nThe run is repeated by\n\n```bash\n{run['command']}\n```\n\nThe options are also in `settings.yaml`."
        )
    return text


def limits_section(has_unanswerable: bool) -> str:
    nothing = (
        "It was trained to say when a text holds no answer, and errs in both directions."
        if has_unanswerable
        else "It was not trained to say that a text holds no answer: it always points somewhere."
    )
    return (
        "## Intended use and limits\n\nFor finding the place in a text that answers a question. It cannot count, reason"
        " over several places, or answer with words that are not in the text; it repeats what the text says, true or"
        f" not, and takes over the biases of its training data. {nothing} On texts unlike those it was trained on the"
        " scores above do not hold: evaluate it on your own before you rely on it."
    )

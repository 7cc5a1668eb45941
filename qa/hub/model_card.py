"""Write the model card of a run from its files; the text is in ``model_card.md.jinja``."""

import json
import os
import platform
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qa.io import run_folder
from qa.io.run_folder import RUN, SETTINGS
from qa.options.arguments import REPOSITORY
from qa.options.saved import published_names
from qa.options.table import TABLE, find_option
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError
from qa.runtime.gpus import used_gpus
from qa.runtime.versions import library_versions

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "huggingface_hub")
SQUAD = {  # datasets on the Hub, with name and license
    "rajpurkar/squad": ("SQuAD 1.1", "CC BY-SA 4.0"),
    "rajpurkar/squad_v2": ("SQuAD 2.0", "CC BY-SA 4.0"),
}
SCORES = {"exact_match": "Exact match", "exact": "Exact match", "f1": "F1"}
SCORES_BY_ANSWERABILITY = {
    "HasAns_exact": "Exact match, with answer",
    "HasAns_f1": "F1, with answer",
    "NoAns_exact": "Exact match, without answer",
    "NoAns_f1": "F1, without answer",
}


def record_run(argv: list[str], settings: dict, seconds: float, memory: str, resumed: bool) -> dict:
    """Return what a card needs besides settings and scores, for run.json; contains no path.

    Args:
        argv: the command line. settings: as saved with the model. seconds: of training, evaluations included.
        memory: peak, in words. resumed: whether the run was interrupted before.
    """
    gpus = [] if settings.get("use_cpu") else used_gpus()
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "memory": memory,
        "hardware": f"{' + '.join(gpus)}, {cores}" if gpus else f"{cores}, no GPU",
        "versions": {"python": platform.python_version()} | library_versions(LIBRARIES),
        "command": clean_command(argv),
        "random_start": bool(settings["config_name"]),
        "base_model": hub_name(settings["model_name_or_path"]),
        "dataset": hub_names(settings["dataset_name"]),
    }


def hub_name(name: str | None) -> str | None:
    """Return the name if it is one on the Hub, None if it is a local path."""
    return None if not name or is_local_path(name) else name


def hub_names(names: str | list | None) -> str | list | None:
    """Return the name or names if all are on the Hub, else None."""
    return names if names and all(hub_name(name) for name in as_names(names)) else None


def as_names(names: str | list[str] | None) -> list[str]:
    """Return one name or several as a list."""
    return [names] if isinstance(names, str) else names or []


def is_local_path(text: str) -> bool:
    """Return whether a value names a file or folder of this machine."""
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
            elif is_local_path(value):
                value = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
            name = f"{name} {shlex.quote(value)}"
        words.append(name)
    return " ".join(words)


def load_json(path: Path) -> dict:
    """Return the content of a JSON file; empty if there is no such file.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise UserError(f"{path}: not JSON; is this the folder of a finished run?") from None


def published_settings(folder: Path) -> dict:
    """Return the settings of a run as they are published: without paths, user names or output options.

    Raises:
        UserError: the file of settings is not YAML.
    """
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
    """Return the card of the model in ``folder``, to be published as ``repository`` (USER/NAME)."""
    settings, run = published_settings(folder), load_json(folder / RUN)
    scores, trained = load_json(folder / run_folder.SCORES), load_json(folder / run_folder.FINISHED)
    config, tokenizer = load_json(folder / run_folder.CONFIG), load_json(folder / run_folder.TOKENIZER_CONFIG)
    name, license = data_name(settings)
    context_first = tokenizer.get("padding_side") == "left"
    text = template().render(
        metadata=card_data(repository, settings, scores).to_yaml(),
        name=repository.split("/")[1],
        repository=repository,
        has_unanswerable=bool(settings.get("version_2_with_negative")),
        base_model=settings.get("model_name_or_path"),
        model_type=config.get("model_type", "transformer"),
        random_start=run.get("random_start"),
        data_name=name,
        license=license,
        datasets=[{"id": each, "name": SQUAD.get(each, (each,))[0]} for each in as_names(settings.get("dataset_name"))],
        held_out=settings.get("validation_split_percentage"),
        scores=[(label, scores[key]) for key, label in (SCORES | SCORES_BY_ANSWERABILITY).items() if key in scores],
        examples=scores.get("examples"),
        precision=scores.get("precision"),
        threshold=settings.get("null_score_diff_threshold"),
        curves=run_folder.CURVES if (folder / run_folder.CURVES).is_file() else None,
        context_first=context_first,
        cls_index=-1 if context_first else 0,
        token_types=", return_token_type_ids=True" if config.get("type_vocab_size", 0) >= 2 else "",
        max_seq_length=settings.get("max_seq_length", 384),
        max_answer_length=settings.get("max_answer_length", 30),
        windows=trained.get("features"),
        hyperparameters=hyperparameters(settings),
        measurements=measurements(run, trained),
        command=run.get("command"),
    )
    return ModelCard(text)


def template() -> jinja2.Template:
    """Return the template of the card, in which ``cell`` fits a value into a Markdown table."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda value: str(value).replace("|", " ")
    return environment.get_template("model_card.md.jinja")


def card_data(repository: str, settings: dict, scores: dict) -> ModelCardData:
    """Return the card's metadata."""
    names = as_names(settings.get("dataset_name"))
    results = [
        EvalResult(
            task_type="question-answering",
            task_name="Extractive question answering",
            dataset_type=names[0] if names else "custom",  # only the first is used for validation
            dataset_name=data_name({"dataset_name": names[:1]})[0],
            dataset_config=first_config(settings),
            dataset_split="train" if "validation_split_percentage" in settings else "validation",
            metric_type=metric,
            metric_name=label,
            metric_value=round(scores[metric], 4),
        )
        for metric, label in SCORES.items()
        if metric in scores
    ]
    return ModelCardData(
        language="en" if data_name(settings)[1] else None,
        library_name="transformers",
        pipeline_tag="question-answering",
        tags=["extractive-qa"],
        datasets=names or None,
        base_model=settings.get("model_name_or_path"),
        metrics=[metric for metric in SCORES if metric in scores] or None,
        model_name=repository.split("/")[1],
        eval_results=results or None,
    )


def first_config(settings: dict) -> str | None:
    """Return the configuration of the first dataset, which is the one used for validation."""
    config = next(iter(as_names(settings.get("dataset_config_name"))), None)
    return None if config in ("null", "none", "") else config


def data_name(settings: dict) -> tuple[str, str | None]:
    """Return the name and the license of the training data; the license is None if it is unknown."""
    known = [SQUAD.get(name, (name, None)) for name in as_names(settings.get("dataset_name"))]
    known = known or [("custom data in SQuAD format", None)]
    license = known[0][1] if len({license for _, license in known}) == 1 else None
    return " and ".join(name for name, _ in known), license


def hyperparameters(settings: dict) -> list[tuple[str, object]]:
    """Return names and values of the options that determine the result, defaults included."""
    default = TrainingOptions(output_dir="").to_dict()
    always = [row.name for row in TABLE.values() if row.published == "always"]
    rows = [(name, settings.get(name, default[name])) for name in always]
    return rows + [(name, settings[name]) for name in published_names() if name in settings and name not in always]


def measurements(run: dict, trained: dict) -> list[tuple[str, str]]:
    """Return what was measured during training, as far as it was recorded."""
    rows = []
    if "seconds" in run:
        time = f"{run['seconds'] / 60:.1f} minutes, evaluations included"
        rows.append(("time", time + (", since the last resumption" if run.get("resumed") else "")))
    if "samples_per_second" in trained:
        rows.append(("speed", f"{trained['samples_per_second']:.1f} windows per second"))
    if "loss" in trained:
        rows.append(("training loss", f"{trained['loss']:.4f}"))
    rows += [(label, run[key]) for key, label in (("hardware", "hardware"), ("memory", "peak memory")) if key in run]
    if precision := run.get("resolved", {}).get("precision"):
        rows.append(("precision", precision))
    if "versions" in run:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())))
    return rows

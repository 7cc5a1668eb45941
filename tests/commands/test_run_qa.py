"""Command lines of transformers' question-answering examples with ``train.py`` in the script's place."""

import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from helpers.builders import FAMILIES
from helpers.commands import SMALL, read, run, train_tiny
from helpers.documents import REPOSITORY, commands
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    TrainerState,
    TrainingArguments,
    XLNetConfig,
    XLNetForQuestionAnsweringSimple,
)

import ask
import evaluate_qa
import train
from qa.options.arguments import DataArguments
from qa.options.parser import parse_arguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

COMMANDS = {"train.py": train, "evaluate_qa.py": evaluate_qa, "ask.py": ask}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model) -> Path:
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output)
    return output


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def named(workplace, bert_tokenizer, tiny_model) -> Path:
    """The current folder, in which the models and datasets that the examples name are tiny local ones."""
    tiny = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    xlnet = FAMILIES["xlnet"]()
    torch.manual_seed(0)
    bert = AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(tiny_model))
    models = {
        "bert-base-uncased": (bert, bert_tokenizer),
        "xlnet-large-cased": (XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(xlnet), **tiny)), xlnet),
    }
    for name, parts in models.items():
        for part in parts:
            part.save_pretrained(workplace / name)
    for name in ("squad", "squad_v2"):
        row: dict = {"question": "Where was Mira born?", "context": "Mira was born in Sollen in 1900."}
        row["answers"] = {"text": ["Sollen"], "answer_start": [17]}
        rows = [row | {"id": str(number)} for number in range(6)]
        if name == "squad_v2":
            rows[0]["answers"] = {"text": [], "answer_start": []}
        for split in ("train", "validation"):
            path = workplace / name / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workplace


# The command lines in the documentation of the examples, with output folders in the current one.
BERT = """--model_name_or_path bert-base-uncased --dataset_name squad --do_train --do_eval
    --per_device_train_batch_size 12 --learning_rate 3e-5 --num_train_epochs 2 --max_seq_length 384 --doc_stride 128
    --output_dir ./debug_squad/"""
NO_TRAINER = """--model_name_or_path bert-base-uncased --dataset_name squad --max_seq_length 384 --doc_stride 128
    --output_dir tmp/debug_squad"""
XLNET = """--model_name_or_path xlnet-large-cased --dataset_name squad --do_train --do_eval --learning_rate 3e-5
    --num_train_epochs 2 --max_seq_length 384 --doc_stride 128 --output_dir ./wwm_cased_finetuned_squad/
    --per_device_eval_batch_size=4 --per_device_train_batch_size=4 --save_steps 5000"""
XLNET_2 = """--model_name_or_path xlnet-large-cased --dataset_name squad_v2 --do_train --do_eval
    --version_2_with_negative --learning_rate 3e-5 --num_train_epochs 4 --max_seq_length 384 --doc_stride 128
    --output_dir ./wwm_cased_finetuned_squad/ --per_device_eval_batch_size=2 --per_device_train_batch_size=2
    --save_steps 5000"""
T5 = """--model_name_or_path t5-small --dataset_name squad_v2 --context_column context --question_column question
    --answer_column answer --do_train --do_eval --per_device_train_batch_size 12 --learning_rate 3e-5"""


@pytest.mark.parametrize("command", [BERT, NO_TRAINER, XLNET, XLNET_2], ids=["bert", "no_trainer", "xlnet", "xlnet_2"])
def test_command_lines_of_the_examples(named, command):
    words = command.split()
    assert failure(run, train, *words) == ""
    results = read(Path(words[words.index("--output_dir") + 1]) / "all_results.json")
    assert {"train_loss", "eval_f1", "eval_exact" if "squad_v2" in words else "eval_exact_match"} <= results.keys()
    assert (results["train_samples"], results["eval_samples"]) == (6, 6)


def test_command_line_of_the_generative_example(workplace):
    assert "--columns question=NAME context=NAME answers=NAME" in error_of(*T5.split())


def test_command_lines_in_the_documents(named):
    (command,) = (line for line in commands(REPOSITORY / "docs/from_run_qa.md") if "run_qa.yaml" in line)
    (named / "configs").symlink_to(REPOSITORY / "configs")
    assert failure(run, train, *shlex.split(command)[2:]) == ""
    assert read(named / "debug_squad/all_results.json")["epoch"] == 2.0


def error_of(*argv) -> str:
    with pytest.raises(UserError) as error:
        run(train, *argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def failure(call, *argv) -> str:
    """Return the error of a call that should succeed; empty if it does."""
    try:
        call(*argv)
    except UserError as error:
        return str(error)
    return ""


def commands_in(message: str) -> list[list[str]]:
    """Return the commands that a message names, as words."""
    return [shlex.split(command) for command in re.findall(r"python \w+\.py(?: --\w+ [^-]\S*)+", message)]


def run_command(words: list[str]) -> None:
    run(COMMANDS[words[1]], *words[2:])


def test_all_results_are_those_of_the_example(trained):
    assert (trained / "all_results.json").is_file()
    results, scores, times = (read(trained / f"{name}_results.json") for name in ("all", "eval", "train"))
    assert {"eval_f1", "eval_exact_match", "eval_samples", "train_samples", "total_flos"} <= results.keys()
    others = {"examples", "features", "precision"}  # all_results.json has numbers only
    assert {f"eval_{name}": value for name, value in scores.items() if name not in others}.items() <= results.items()
    assert (results["eval_samples"], results["train_samples"]) == (scores["features"], times["features"])
    for name in ("loss", "runtime", "samples_per_second", "steps_per_second"):
        assert results[f"train_{name}"] == times[name], name
    assert results["epoch"] == 2.0


def test_trainer_state_is_in_the_output_folder(trained):
    assert (trained / "trainer_state.json").is_file()
    state = TrainerState.load_from_json(str(trained / "trainer_state.json"))
    assert state.global_step == read(trained / "train_results.json")["global_step"]
    assert {"eval_f1", "train_loss"} <= {name for entry in state.log_history for name in entry}


def test_the_state_does_not_make_the_folder_a_checkpoint(trained, tiny_data, tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"this run is finished"):
        train_tiny(tiny_data, tiny_model, trained)
    with pytest.raises(UserError, match=r"not an intact checkpoint: it has no optimizer"):
        train_tiny(tiny_data, tiny_model, trained, "--resume_from_checkpoint", trained)
    copy = shutil.copytree(trained, tmp_path / "copy")
    with pytest.raises(UserError, match="learning_rate must be"):
        train_tiny(tiny_data, tiny_model, copy, "--overwrite_output_dir", "true", "--learning_rate", "-1")
    assert (copy / "all_results.json").exists(), "nothing is deleted before the options are checked"


def test_a_run_that_is_overwritten_leaves_no_results_of_the_old_one(trained, tiny_data, tiny_model, tmp_path):
    copy, stop = shutil.copytree(trained, tmp_path / "copy"), ("--stop_if_failed", "true")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qa.training.run.make_trainer", lambda **_: (_ for _ in ()).throw(UserError("stopped")))
        with pytest.raises(UserError, match="stopped"):
            train_tiny(tiny_data, tiny_model, copy, "--overwrite_output_dir", "true", *stop)
    assert not (copy / "all_results.json").exists() and not (copy / "trainer_state.json").exists()


def test_an_evaluation_writes_all_results_too(trained, tmp_path):
    output = tmp_path / "scored"
    for _ in range(2):
        run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", output)
        assert (output / "all_results.json").is_file()
        scores, results = read(output / "eval_results.json"), read(output / "all_results.json")
        assert results["eval_f1"] == scores["f1"] and results["eval_samples"] == scores["features"]
        assert not [name for name in results if name.startswith(("train_", "eval_old"))]
        (output / "all_results.json").write_text(json.dumps(results | {"eval_old": 1}))
    folder = shutil.copytree(trained, tmp_path / "model")
    run(evaluate_qa, "--model_name_or_path", folder, "--output_dir", folder, "--max_eval_samples", 3)
    merged = read(folder / "all_results.json")
    assert merged["train_loss"] == read(trained / "all_results.json")["train_loss"]
    assert merged["eval_f1"] == read(folder / "eval_results.json")["f1"]


def test_the_command_of_the_examples_own_test(workplace, tiny_data, tiny_model):
    """Its options, in its order; only names and lengths are those of the tiny model."""
    nested = {"version": "v2.0", **read(tiny_data / "train.json")}
    Path("sample.json").write_text(json.dumps(nested))
    command = f"""
        --config_name {tiny_model}
        --version_2_with_negative
        --train_file sample.json
        --validation_file sample.json
        --output_dir out
        --overwrite_output_dir
        --max_steps=10
        --warmup_steps=2
        --do_train
        --do_eval
        --learning_rate=2e-4
        --per_device_train_batch_size=2
        --per_device_eval_batch_size=1
    """
    assert failure(run, train, *command.split(), *SMALL) == ""
    results = read(Path("out/all_results.json"))
    assert {"eval_f1", "eval_exact", "eval_best_f1", "eval_total", "train_loss", "epoch"} <= results.keys()


def test_evaluating_alone_is_answered_with_a_command_that_works(trained, workplace, tiny_data):
    options = ("--validation_file", tiny_data / "dev.json.gz", "--max_eval_samples", 5, "--n_best_size", 4)
    given = ("--model_name_or_path", trained, "--do_eval", "--learning_rate", "1", *options, "--output_dir", "out")
    message = error_of(*given)
    assert "do_eval without do_train: add --do_train, or, to evaluate only, write: python evaluate_qa.py" in message
    (words,) = commands_in(message)
    assert set(map(str, options)) <= set(words) and "--learning_rate" not in words
    run_command(words)
    assert read(Path("out/eval_results.json"))["examples"] == 5
    assert len(next(iter(read(Path("out/nbest_predictions.json")).values()))) <= 4


def test_predicting_is_answered_with_commands_that_work(trained, workplace, tiny_data):
    (workplace / "run").symlink_to(trained)
    (workplace / "test.json").write_bytes((tiny_data / "train.json").read_bytes())
    test = ("--do_predict", "--test_file", "test.json", "--max_predict_samples", "3", "--output_dir", "run")
    for given, when in ((("--do_train", "--do_eval"), "and after training write"), ((), "instead write")):
        message = error_of(*given, *test)
        assert message.startswith("train.py does not predict: leave out do_predict and test_file and max_predict_")
        assert when in message
        scored, asked = commands_in(message)
        run_command(scored)
        assert read(Path("run/test/eval_results.json"))["examples"] == 3
        run_command(asked)
        assert Path("run/answers.jsonl").read_text().count('"answer"') > 3
    Path("c.yaml").write_text("do_predict: true\n")
    assert "does not predict" in error_of("--config", "c.yaml", "--do_train")


def test_only_evaluating_in_a_file_of_arguments(workplace):
    """A file of ``run_qa.py``'s arguments is JSON; in a run's settings ``do_eval`` only follows from others."""
    Path("args.json").write_text(json.dumps({"do_eval": True, "model_name_or_path": "m", "max_seq_length": 99}))
    assert "did you mean --config args.json?" in error_of("args.json")
    message = error_of("--config", "args.json")
    assert "python evaluate_qa.py --config args.json" in message
    Path("args.json").write_text(json.dumps({"do_eval": True, "do_train": True, "learning_rate": -1}))
    assert "learning_rate" in error_of("--config", "args.json")
    Path("settings.yaml").write_text("do_eval: true\neval_strategy: epoch\nlearning_rate: -1\n")
    assert "learning_rate" in error_of("--config", "settings.yaml")


def test_not_training_is_refused(workplace):
    assert "do_train false: train.py does nothing else" in error_of("--do_train", "false")


def test_stages_do_not_change_a_run_that_is_resumed(trained, tiny_data, tiny_model, tmp_path, capsys):
    """An older release took ``do_predict`` and ignored it."""
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--do_train", "--do_eval", "--save_strategy", "epoch")
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (tmp_path / "run/train_results.json").unlink()
    settings = newest / "settings.yaml"
    settings.write_text(settings.read_text() + "do_predict: true\n")
    (newest / "files.json").write_text(json.dumps(read(newest / "files.json") | {"files": {}}))
    again = tiny_data, tiny_model, tmp_path / "run", "--save_strategy", "epoch"
    assert failure(train_tiny, *again) == ""
    assert f"resuming from {newest}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["question_column", "context_column", "answer_column"])
def test_columns_are_answered_with_pairs(name):
    assert "--columns question=NAME context=NAME answers=NAME" in error_of(f"--{name}", "x")


def test_the_recipe_has_the_defaults_of_the_example():
    """What the recipe leaves out has the default of ``TrainingArguments``, as in the example."""
    path = str(REPOSITORY / "configs/run_qa.yaml")
    data, args = parse_arguments((DataArguments, TrainingOptions), ["--config", path])
    plain, theirs = args.to_dict(), TrainingArguments("x").to_dict()
    ours = ("output_dir", "report_to", "logging_dir", "logging_nan_inf_filter", "disable_tqdm")
    same = [name for name in theirs if name not in ours]
    assert {name: plain[name] for name in same} == {name: theirs[name] for name in same}
    assert (data.max_seq_length, data.doc_stride, data.n_best_size, data.max_answer_length) == (384, 128, 20, 30)

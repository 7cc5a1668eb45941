"""The commands, as a user runs them, on a tiny model: preprocess, train, evaluate."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers.builders import squad
from helpers.commands import SMALL, read, run, train_tiny
from safetensors.torch import load_file, save_file

import ask
import evaluate_qa
import preprocess
import train
from qa.evaluation.official_scores import normalize_answer
from qa.io.files import write_yaml
from qa.options.arguments import REPOSITORY
from qa.runtime.errors import UserError
from qa.training.trainer import QATrainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model):
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output)
    return output


def test_output_files_without_pickled_arguments(trained):
    names = {"model.safetensors", "config.json", "tokenizer.json", "settings.yaml", "train_results.json"}
    names |= {"eval_results.json", "predictions.json", "nbest_predictions.json"}
    assert names <= {path.name for path in trained.iterdir()}
    assert not list(trained.rglob("training_args.bin"))
    assert read(trained / "config.json")["hidden_act"] == "gelu_new"
    results = read(trained / "eval_results.json")
    assert {"exact_match", "f1", "loss", "examples", "features"} <= results.keys() and results["examples"] == 16
    settings = yaml.safe_load((trained / "settings.yaml").read_text())
    assert settings["learning_rate"] == 1e-3 and settings["max_seq_length"] == 48
    assert read(trained / "tokenizer.json")["truncation"] is None


def test_best_epoch_is_kept(trained):
    states = [read(path) for path in trained.glob("checkpoint-*/trainer_state.json")]
    history = max(states, key=lambda state: state["global_step"])["log_history"]
    scores = [entry["eval_f1"] for entry in history if "eval_f1" in entry]
    assert len(scores) == 2 and read(trained / "eval_results.json")["f1"] == max(scores)
    assert all("eval_loss" in entry for entry in history if "eval_f1" in entry)


def test_repeated_evaluation_gives_the_same_results(trained, tmp_path, capsys):
    logits = tmp_path / "logits.npz"
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", tmp_path / "a", "--save_logits", logits)
    assert "exact match" in capsys.readouterr().out
    first, again = read(trained / "eval_results.json"), read(tmp_path / "a/eval_results.json")
    for name in ("exact_match", "f1", "examples", "features"):
        assert first[name] == again[name]
    assert first["loss"] == pytest.approx(again["loss"], abs=1e-6)
    assert read(trained / "predictions.json") == read(tmp_path / "a/predictions.json")

    with np.load(logits) as saved:
        assert saved["start"].dtype == np.float32 and saved["start"].shape[0] == again["features"]
    settings = yaml.safe_load((trained / "settings.yaml").read_text())
    data = ("--validation_file", settings["validation_file"], *SMALL, "--output_dir")
    run(evaluate_qa, "--logits", logits, "--tokenizer_name", trained, *data, tmp_path / "b")
    assert read(tmp_path / "b/predictions.json") == read(tmp_path / "a/predictions.json")
    assert read(tmp_path / "b/nbest_predictions.json") == read(tmp_path / "a/nbest_predictions.json")
    run(evaluate_qa, "--predictions", tmp_path / "a/predictions.json", *data, tmp_path / "c")
    assert read(tmp_path / "c/eval_results.json")["f1"] == first["f1"]


def test_evaluation_of_a_model_whose_data_stayed_elsewhere(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint-*"))
    settings = yaml.safe_load((tmp_path / "moved/settings.yaml").read_text())
    write_yaml(tmp_path / "moved/settings.yaml", settings | {"validation_file": "/elsewhere/dev.json"})
    with pytest.raises(UserError, match=r"/elsewhere/dev\.json, .* model's settings.* give --validation_file"):
        run(evaluate_qa, "--model_name_or_path", tmp_path / "moved")


def test_results_for_other_data_are_not_replaced_without_a_note(trained, tiny_data, tmp_path, capsys):
    for name, noted in (("train.json", False), ("dev.json.gz", True), ("dev.json.gz", False)):
        data = "--validation_file", tiny_data / name, "--output_dir", tmp_path / "evaluation"
        run(evaluate_qa, "--model_name_or_path", trained, *data)
        assert ("has the results for other questions" in capsys.readouterr().err) == noted


def test_the_folder_holds_a_report_and_the_curves(trained):
    from PIL import Image

    page = (trained / "report.html").read_text(encoding="utf-8")
    assert f"<b>{read(trained / 'eval_results.json')['f1']:.2f}</b> F1" in page
    assert "ceiling: perfect logits with these windows and limits" in page and "<h2>Calibration</h2>" in page
    with Image.open(trained / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert len({colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}) > 20, "something is drawn"


def test_a_compared_evaluation_is_named_after_its_model(trained, tmp_path, capsys):
    other = tmp_path / "my model" / "evaluation"
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", other)
    capsys.readouterr()
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", tmp_path / "out", "--compare", other)
    assert "F1 against my model/evaluation " in capsys.readouterr().out
    assert "my model/evaluation" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_evaluations_are_compared(trained, tmp_path, capsys):
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", tmp_path, "--compare", trained)
    assert read(tmp_path / "comparison.json")["f1"]["p_value"] == 1
    output = capsys.readouterr().out
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", tmp_path / "other", "--compare", trained)
    (tmp_path / "other/null_odds.json").write_text("{}")
    run(evaluate_qa, "--model_name_or_path", trained, "--output_dir", tmp_path / "other")
    left = {path.name for path in (tmp_path / "other").iterdir()}
    assert not left & {"comparison.json", "null_odds.json"}, "of an earlier evaluation"
    page = (tmp_path / "report.html").read_text()
    assert "0 gained, 0 lost" in output and "Against model" in page
    assert f"<dt>model</dt><dd>{trained}</dd>" in page and re.search(r"<dt>data</dt><dd>\S+/dev.json.gz</dd>", page)


@pytest.fixture(scope="module")
def has_unanswerable(tmp_path_factory, tiny_data):
    """The tiny data as SQuAD 2.0: every third question has no answer."""
    folder = tmp_path_factory.mktemp("negatives")
    for name, opener in (("train.json", open), ("dev.json.gz", gzip.open)):
        with opener(tiny_data / name, "rt", encoding="utf-8") as file:
            data = json.load(file)
        questions = [qa for article in data["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
        for qa in questions[::3]:
            qa["answers"], qa["is_impossible"] = [], True
        with opener(folder / name, "wt", encoding="utf-8") as file:
            json.dump(data, file)
    return folder


def test_squad_2_best_threshold_is_saved_and_used(has_unanswerable, tiny_data, tiny_model, tmp_path, capsys):
    model, again = tmp_path / "model", tmp_path / "again"
    train_tiny(has_unanswerable, tiny_model, model, "--num_train_epochs", 4)
    settings = yaml.safe_load((model / "settings.yaml").read_text())
    assert settings["version_2_with_negative"] is True, "found from the data"
    results = read(model / "eval_results.json")
    assert results["NoAns_total"] == 6 and results["HasAns_total"] == 10 and results["total"] == 16
    odds, texts = read(model / "null_odds.json"), read(model / "predictions.json")
    assert all((odds[key] > 0) == (text == "") for key, text in texts.items())

    run(evaluate_qa, "--model_name_or_path", model, "--save_logits", tmp_path / "l.npz", "--output_dir", again)
    options = ("--validation_file", has_unanswerable / "dev.json.gz", "--tokenizer_name", model, *SMALL)
    run(evaluate_qa, "--logits", tmp_path / "l.npz", *options, "--output_dir", tmp_path / "of_logits")
    ours, theirs = (read(folder / "eval_results.json") for folder in (tmp_path / "of_logits", again))
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert {name: ours[name] for name in ours if name != "loss"} == {n: theirs[n] for n in ours if n != "loss"}
    for name in ("predictions", "nbest_predictions", "null_odds"):
        assert read(tmp_path / f"of_logits/{name}.json") == read(again / f"{name}.json")

    threshold = min(odds.values()) - 1  # so that no question is answered, as by an untrained model
    settings["null_score_diff_threshold"] = threshold
    (model / "settings.yaml").write_text(yaml.safe_dump(settings))
    run(evaluate_qa, "--model_name_or_path", model, "--output_dir", again)
    assert (
        set(read(again / "predictions.json").values()) == {""} and read(again / "eval_results.json")["NoAns_f1"] == 100
    )
    best = {name: value for name, value in read(again / "eval_results.json").items() if name.startswith("best_")}
    assert best == {name: pytest.approx(results[name]) for name in best} and len(best) == 4, "from the raw answers"

    keep = ("--model_name_or_path", model, "--save_best_threshold", "true", "--output_dir", again)
    capsys.readouterr()
    if best["best_f1"] > 100 * 6 / 16:
        run(evaluate_qa, *keep)
        assert " saved in " in capsys.readouterr().out
        run(evaluate_qa, "--model_name_or_path", model, "--output_dir", again)
        reached, given = (read(again / f"{name}.json") for name in ("eval_results", "predictions"))
        if all(normalize_answer(text) for text in given.values() if text):
            assert reached["f1"] == pytest.approx(best["best_f1"])
        else:  # an answer such as "a" is empty for the official scores, but not for their best threshold
            assert reached["f1"] >= best["best_f1"]
        assert "No-answer threshold" in (again / "report.html").read_text()
    else:
        with pytest.raises(UserError, match=r"no threshold scores better .* than leaving all of them unanswered"):
            run(evaluate_qa, *keep)

    run(
        evaluate_qa,
        "--model_name_or_path",
        model,
        "--validation_file",
        tiny_data / "dev.json.gz",
        "--output_dir",
        again,
    )
    assert "scored as SQuAD 1.1 and always answers" in capsys.readouterr().err
    assert "exact_match" in read(again / "eval_results.json") and "" not in read(again / "predictions.json").values()


def test_published_style_null_odds(has_unanswerable, tmp_path, capsys):
    data = ("--validation_file", has_unanswerable / "dev.json.gz", "--output_dir", tmp_path / "out")
    with gzip.open(has_unanswerable / "dev.json.gz", "rt") as file:
        articles = json.load(file)["data"]
    questions = [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    texts = {qa["id"]: qa["answers"][0]["text"] if qa["answers"] else "wrong" for qa in questions}
    odds = {
        qa["id"]: 0.9 if qa["is_impossible"] else 0.1
        for qa in (question | {"is_impossible": not question["answers"]} for question in questions)
    }
    files = [tmp_path / "p.json", tmp_path / "o.json"]
    for path, content in zip(files, (texts, odds), strict=True):
        path.write_text(json.dumps(content))
    run(evaluate_qa, "--predictions", files[0], "--null_odds", files[1], *data)
    results = read(tmp_path / "out/eval_results.json")
    assert results["exact"] == 62.5 and results["best_exact"] == 100 and results["best_exact_thresh"] == 0.1
    for content, message in (
        ({"x": 1}, "no null odds for any of the 16"),
        (odds | {questions[0]["id"]: "1"}, "is not a finite number: "),
        (dict(list(odds.items())[1:]), "1 question without null odds"),
    ):
        files[1].write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            run(evaluate_qa, "--predictions", files[0], "--null_odds", files[1], *data)


def test_warning_for_a_squad_1_model_on_squad_2_data(trained, has_unanswerable, tmp_path, capsys):
    run(
        evaluate_qa,
        "--model_name_or_path",
        trained,
        "--validation_file",
        has_unanswerable / "dev.json.gz",
        "--output_dir",
        tmp_path,
    )
    assert "6 of these 16 questions have no answer (SQuAD 2.0); this model was trained on" in capsys.readouterr().err
    assert read(tmp_path / "eval_results.json")["NoAns_total"] == 6


def test_a_long_document_is_evaluated_in_little_memory(trained, tmp_path, monkeypatch):
    """40,000 characters, hundreds of windows, of which only the best tokens are kept."""
    from qa.evaluation.evaluator import Evaluator

    kept, call = [], Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, *parts: kept.append(parts[0]) or call(self, *parts))
    text = "Mira was born in Sollen in 1931. She left for the town of Zoë at five. " * 570 + "Ann wrote it."
    (tmp_path / "long.json").write_text(json.dumps(squad([(text, "Who wrote it?", "Ann wrote")])))
    run(
        evaluate_qa,
        "--model_name_or_path",
        trained,
        "--validation_file",
        tmp_path / "long.json",
        "--output_dir",
        tmp_path,
    )
    windows = read(tmp_path / "eval_results.json")["features"]
    (candidates,) = kept
    assert len(text) > 40_000 and windows > 300 and candidates.start_token.shape == (windows, 20)
    nbest = read(tmp_path / "nbest_predictions.json")
    assert [len(entries) for entries in nbest.values()] == [20]
    assert (tmp_path / "report.html").stat().st_size < 300_000


def test_scores_do_not_depend_on_the_batch_size(trained, tmp_path):
    run(evaluate_qa, "--model_name_or_path", trained, "--per_device_eval_batch_size", 3, "--output_dir", tmp_path)
    assert read(tmp_path / "predictions.json") == read(trained / "predictions.json")
    assert read(tmp_path / "eval_results.json")["loss"] == pytest.approx(read(trained / "eval_results.json")["loss"])


def test_short_windows_share_a_batch_of_as_many_tokens(trained, tmp_path, monkeypatch):
    """The batch size counts windows of the longest kind: shorter ones go more to a batch, which is never larger."""
    sentence, question = "Mira was born in Sollen in 1931. ", ("Where was Mira born?", "Sollen")
    rows = [(sentence * (8 if i % 5 == 0 else 1 + i % 2), *question) for i in range(40)]
    (tmp_path / "dev.json").write_text(json.dumps(squad(rows)), encoding="utf-8")
    original, shapes = QATrainer.prediction_step, []

    def step(trainer, model, inputs, *args, **kwargs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return original(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(QATrainer, "prediction_step", step)
    for size in (1, 4):
        output, workers = tmp_path / str(size), ("--dataloader_num_workers", size // 4)
        options = ("--validation_file", tmp_path / "dev.json", "--per_device_eval_batch_size", size, *workers)
        shapes.clear()
        run(evaluate_qa, "--model_name_or_path", trained, *options, "--output_dir", output)
        assert sum(windows for windows, _ in shapes) == read(output / "eval_results.json")["features"]
        assert shapes[0] == (size, 48), "the longest windows come first"
        assert max(windows * width for windows, width in shapes) <= size * 48
        assert max(windows for windows, width in shapes if width <= 24) >= 2 * size
    assert read(tmp_path / "1/predictions.json") == read(tmp_path / "4/predictions.json")


def test_preprocess_counts_add_up(tiny_data, tiny_model, tmp_path, capsys):
    files = ("--train_file", tiny_data / "train.json", "--validation_file", tiny_data / "dev.json.gz")
    run(preprocess, "--tokenizer_name", tiny_model, *files, *SMALL, "--output_dir", tmp_path, "--cache_dir", tmp_path)
    summary = read(tmp_path / "summary.json")
    for name, count in (("train", 40), ("validation", 16)):
        part = summary[name]
        assert part["read"] == part["examples"] + part["dropped"] == count == part["features"]
        assert part["ceiling"] == {"exact_match": 100.0, "f1": 100.0} and part["label_f1"] == 100.0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines()[:-1])


def test_ceiling_of_training_files_that_share_ids(tiny_data, tiny_model, tmp_path):
    files = ("--train_file", tiny_data / "train.json", tiny_data / "dev.json.gz")  # both number their questions from 0
    run(preprocess, "--tokenizer_name", tiny_model, *files, *SMALL, "--output_dir", tmp_path, "--cache_dir", tmp_path)
    summary = read(tmp_path / "summary.json")["train"]
    assert summary["examples"] == 56 and summary["ceiling"] == {"exact_match": 100.0, "f1": 100.0}


def test_unreachable_answers_are_dropped_from_training(tiny_model, tmp_path):
    long = "Mira was born in Sollen and " * 9 + "left."
    path = tmp_path / "long.json"
    path.write_text(json.dumps(squad([(long, "What?", long[:-5]), (long, "Where?", "Sollen")])))
    files = ("--train_file", path, "--validation_file", path, "--cache_dir", tmp_path)
    run(preprocess, "--tokenizer_name", tiny_model, *files, *SMALL, "--output_dir", tmp_path)
    summary = read(tmp_path / "summary.json")
    assert (summary["train"]["examples"], summary["train"]["dropped"]) == (1, 1)
    assert (summary["validation"]["examples"], summary["validation"]["dropped"]) == (2, 0)
    assert summary["validation"]["answers_out_of_reach"] == {"longer than neighbouring windows share": 1}
    assert summary["validation"]["ceiling"]["exact_match"] == 50.0


def test_wrong_offsets_stop_training(tiny_data, tiny_model, tmp_path, monkeypatch):
    """A tokenizer whose offsets omit the first letter of each word, like those of one RoBERTa variant."""
    for module in ("tokenized_text", "make_windows"):
        monkeypatch.setattr(
            f"qa.data.{module}.trim_white_space", lambda offsets, *_: (offsets + np.array([1, 0])).astype(np.int32)
        )
    with pytest.raises(UserError, match=r"decoded back to text, reach F1 .* offsets are wrong"):
        train_tiny(tiny_data, tiny_model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--metric_for_best_model", "F1"), "metric_for_best_model F1 is not computed: choose one of f1"),
        (("--report_to", "wandb"), "report_to wandb needs a package that is not installed: pip install wandb"),
        (("--optim", "adamw_bnb_8bit"), "optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
        (("--resume_from_checkpoint", "last"), "no checkpoint to resume from"),
    ],
)
def test_invalid_options_fail_before_training(tiny_data, tiny_model, tmp_path, argv, message):
    with pytest.raises(UserError) as error:
        train_tiny(tiny_data, tiny_model, tmp_path / "model", *argv)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_training_starts_from_a_checkpoint_of_another_task(trained, tiny_data, tmp_path):
    """A checkpoint with three labels in its configuration and no question-answering head."""
    other = tmp_path / "classifier"
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(other / "model.safetensors")
    encoder = {key: value for key, value in weights.items() if not key.startswith("qa_outputs")}
    save_file(encoder, other / "model.safetensors", {"format": "pt"})
    config = read(other / "config.json") | {"id2label": {"0": "a", "1": "b", "2": "c"}}
    (other / "config.json").write_text(json.dumps(config))
    files = ("--train_file", tiny_data / "train.json", "--validation_file", tiny_data / "dev.json.gz", *SMALL)
    more = ("--output_dir", tmp_path / "model", "--report_to", "none", "--max_steps", 1, "--cache_dir", tmp_path)
    run(train, "--model_name_or_path", other, *files, *more)
    assert read(tmp_path / "model/eval_results.json")["examples"] == 16


def test_a_model_without_its_tokenizer_is_not_evaluated(trained, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, bare)
    with pytest.raises(UserError, match="tokenizer"):
        run(ask, "--model_name_or_path", bare, "--question", "Who?", "--context", "Ann.")


def test_diverged_model_is_reported(trained, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(broken / "model.safetensors")
    weights["qa_outputs.bias"] += float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the model has diverged"):
        run(evaluate_qa, "--model_name_or_path", broken, "--output_dir", tmp_path / "x")


def test_missing_weights_stop_the_run(trained, tiny_data, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(broken / "model.safetensors")
    lost = next(key for key in weights if "attention.query.weight" in key)
    save_file(
        {key: value for key, value in weights.items() if key != lost}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match="lacks 1 encoder weights"):
        run(evaluate_qa, "--model_name_or_path", broken, "--output_dir", tmp_path / "x")
    head = {key: value for key, value in weights.items() if not key.startswith("qa_outputs")}
    save_file(head, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="has no question-answering head"):
        run(evaluate_qa, "--model_name_or_path", broken, "--output_dir", tmp_path / "x")


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (evaluate_qa, (), "one of --model_name_or_path, --predictions and --logits"),
        (evaluate_qa, ("--predictions", "p.json"), "--predictions needs --output_dir"),
        (evaluate_qa, ("--predictions", "p", "--logits", "l"), "one of --model_name_or_path"),
        (evaluate_qa, ("--predictions", "p", "--output_dir", "o"), "no validation questions"),
        (evaluate_qa, ("--model_name_or_path", "m", "--predictions", "p", "--output_dir", "o"), "without a model"),
        (
            evaluate_qa,
            ("--model_name_or_path", "m", "--save_logits", "nowhere/x.npz"),
            "nowhere is not a folder: give a file in another folder",
        ),
        (
            evaluate_qa,
            ("--model_name_or_path", "m", "--save_logits", "x.json"),
            "must be the name of a file, with .npz",
        ),
    ],
)
def test_invalid_options_are_one_line_errors(command, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        run(command, *argv)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "must be a JSON object that maps"),
        ('{"q40": 3}', "the answer of q40 is not text: 3"),
        ('{"other": "x"}', "has no answer for any of the 16 questions"),
    ],
)
def test_bad_predictions_file(tiny_data, tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        run(
            evaluate_qa, "--predictions", path, "--validation_file", tiny_data / "dev.json.gz", "--output_dir", tmp_path
        )
    assert message in str(error.value)


def test_bad_logits_file(trained, tmp_path):
    settings = yaml.safe_load((trained / "settings.yaml").read_text())
    path = tmp_path / "l.npz"
    options = ("--validation_file", settings["validation_file"], "--tokenizer_name", trained, *SMALL)
    rows = np.zeros((16, 48), np.float32)
    for content, message in (
        ({"start": rows}, "two arrays"),
        ({"start": rows[:3], "end": rows}, r"`start` is float32 of shape \(3, 48\)"),
        ({"start": rows, "end": rows.astype(int)}, "`end` is int64"),
        ({"start": rows, "end": rows + np.nan}, "`end` holds NaN or infinity"),
    ):
        np.savez(path, **content)
        with pytest.raises(UserError, match=message):
            run(evaluate_qa, "--logits", path, *options, "--output_dir", tmp_path)
    path.write_text("no")
    with pytest.raises(UserError, match=r"not an .npz file"):
        run(evaluate_qa, "--logits", path, *options, "--output_dir", tmp_path)


def test_missing_hub_model_is_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"tokenizer nobody/nothing could not be loaded.*--config configs/demo.yaml"):
        run(train, "--model_name_or_path", "nobody/nothing", "--output_dir", tmp_path / "x")
    with pytest.raises(UserError, match=r"tokenizer .* cannot be loaded"):
        run(train, "--model_name_or_path", REPOSITORY / "tests", "--output_dir", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_two_processes_at_once_share_one_cache(tiny_data, tiny_model, tmp_path):
    options = [
        "--tokenizer_name",
        tiny_model,
        "--train_file",
        tiny_data / "train.json",
        *SMALL,
        "--cache_dir",
        tmp_path,
    ]
    command = [sys.executable, "preprocess.py", *map(str, options), "--output_dir"]
    started = [subprocess.Popen([*command, str(tmp_path / name)], cwd=REPOSITORY) for name in ("a", "b")]
    assert [process.wait() for process in started] == [0, 0]
    assert read(tmp_path / "a/summary.json") == read(tmp_path / "b/summary.json")
    assert len(list(tmp_path.glob("qa_windows/*.arrow"))) == 1

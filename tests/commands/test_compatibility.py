"""Runs written by commit 1c928e6 are resumed, evaluated, asked and published by this code with the same results.

The folders and the commands that wrote them are in tests/fixtures/run_1c928e6, made by make_run_1c928e6.py there.
"""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import run
from helpers.hub_server import serve_to_client
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import ask
import evaluate_qa
import preprocess
import publish
import train
from ask import pipeline

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/run_1c928e6"
WRITTEN_AT = "/tmp/run_1c928e6"  # where the fixture was written, and so what its files contain
# Added equally to all scores of a softmax, these have no effect: their gradient is rounding noise, and Adam scales it.
INVARIANT = ("qa_outputs.bias", "attention.key.bias")
CLOCK = re.compile(r"(runtime|seconds|samples_per_second|steps_per_second|finished|memory|hardware|versions)$")


def read(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)


COMMANDS = {name: argv[1:] for name, argv in read(FIXTURE / "commands.json").items()}


def copy_fixture(folder: Path) -> Path:
    """Copy the fixture as if it had been written in ``folder``.

    settings.yaml contains absolute paths of the data. In a checkpoint, files.json contains its size and digest.
    """
    shutil.copytree(FIXTURE, folder)
    for path in folder.rglob("settings.yaml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(WRITTEN_AT, str(folder)), encoding="utf-8", newline="\n")
        manifest = path.with_name("files.json")
        if manifest.exists():
            content = read(manifest)
            content["files"][path.name] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
            manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread, as the fixture was computed, which is also the fastest for such a small model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """A copy of the fixture as the working directory, to which the paths in its commands are relative."""
    folder = copy_fixture(tmp_path / "run")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> Path:
    """The results of this code for the fixture's commands, data and model, without interruption."""
    folder = tmp_path_factory.mktemp("repeated") / "run"
    for name in ("data", "model"):
        shutil.copytree(FIXTURE / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(train, *COMMANDS["interrupted"])
        run(train, *COMMANDS["finished"])
        run(preprocess, *COMMANDS["checked"])
    return folder


def assert_close(new, old, tolerance: float, where: str = "") -> None:
    """Check that nested dictionaries, lists, tensors and values are equal; floats and tensors within ``tolerance``."""
    if isinstance(old, dict):
        assert new.keys() == old.keys(), where
        for key in old:
            assert_close(new[key], old[key], tolerance, f"{where}/{key}")
    elif isinstance(old, (list, tuple)):
        assert len(new) == len(old), where
        for index, (one, other) in enumerate(zip(new, old, strict=True)):
            assert_close(one, other, tolerance, f"{where}/{index}")
    elif isinstance(old, torch.Tensor):
        torch.testing.assert_close(new, old, rtol=0, atol=tolerance, msg=lambda text: f"{where}: {text}")
    elif isinstance(old, float):
        assert math.isclose(new, old, rel_tol=0, abs_tol=tolerance), f"{where}: {new} is not {old}"
    else:
        assert new == old, where


def without_clock(values: dict) -> dict:
    """Return the values that do not depend on machine and time."""
    return {name: value for name, value in values.items() if not CLOCK.match(name)}


def last_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def assert_same_weights(new: Path, old: Path, tolerance: float) -> None:
    """Check that the weights of two model folders are equal; those that have no effect may differ by more."""
    new, old = (load_file(folder / "model.safetensors") for folder in (new, old))
    assert new.keys() == old.keys()
    for name in old:
        assert_close(new[name], old[name], 0.1 if name.endswith(INVARIANT) else tolerance, name)


def assert_same_end(one: Path, other: Path, tolerance: float) -> None:
    """Check that weights, optimizer and schedule of the last step, and the kept model and answers, are the same."""
    ours, theirs = last_checkpoint(one), last_checkpoint(other)
    assert ours.name == theirs.name == "checkpoint-30"
    assert_same_weights(ours, theirs, tolerance)
    assert_same_weights(one, other, tolerance)
    for name in ("optimizer.pt", "scheduler.pt"):
        assert_close(*(torch.load(folder / name, weights_only=True) for folder in (ours, theirs)), tolerance, name)
    states = [read(folder / "trainer_state.json") for folder in (ours, theirs)]
    for name in ("global_step", "max_steps", "best_global_step", "best_metric"):
        assert_close(*(state[name] for state in states), tolerance, name)
    for name in ("predictions.json", "null_odds.json"):
        assert_close(*(read(folder / name) for folder in (one, other)), 1e-5, name)


def test_interrupted_run_has_the_expected_files():
    """A regular checkpoint, a newer recovery checkpoint, and a still newer one that is incomplete."""
    left = {path.name for path in (FIXTURE / "interrupted").iterdir()}
    assert left == {".lock", ".holder.json", ".saving", "checkpoint-15", "recovery-19"}
    assert [path.name for path in (FIXTURE / "interrupted/.saving").iterdir()] == ["checkpoint-20"]
    assert not (FIXTURE / "interrupted/.saving/checkpoint-20/settings.yaml").exists()


def test_the_interrupted_run_is_resumed_to_the_same_end(written, repeated):
    run(train, *COMMANDS["interrupted"], "--resume_from_checkpoint", "last")
    results = read(written / "interrupted/train_results.json")
    assert results["resumed_from"] == 19 and results["global_step"] == 30
    assert_same_end(written / "interrupted", repeated / "interrupted", 1e-6)
    left = {path.name for path in (written / "interrupted").iterdir()}
    assert {".saving", ".holder.json", "recovery-19"}.isdisjoint(left)


def test_the_interrupted_run_is_resumed_by_the_same_command(written, repeated, capsys):
    """Without --resume_from_checkpoint all settings must be the same. The windows cannot be compared, because 1c928e6
    included the code that made them in their key."""
    capsys.readouterr()
    run(train, *COMMANDS["interrupted"])
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    assert "only the settings of its training windows were compared" in note and "settings that differ" not in note
    assert read(written / "interrupted/train_results.json")["resumed_from"] == 19
    assert_same_end(written / "interrupted", repeated / "interrupted", 1e-6)


def test_the_interrupted_run_is_not_evaluated(written):
    with pytest.raises(Exception, match="unfinished run"):
        run(evaluate_qa, "--model_name_or_path", "interrupted", "--output_dir", "again")
    assert not (written / "again").exists()


def test_the_finished_run_is_not_trained_again(written):
    before = {path: path.read_bytes() for path in (written / "finished").rglob("*") if path.is_file()}
    with pytest.raises(Exception, match="finished"):
        run(train, *COMMANDS["finished"])
    assert before == {path: path.read_bytes() for path in (written / "finished").rglob("*") if path.is_file()}


def test_the_finished_model_is_evaluated_the_same(written):
    run(evaluate_qa, "--model_name_or_path", "finished", "--output_dir", "again")
    for name in ("predictions.json", "nbest_predictions.json", "null_odds.json"):
        assert_close(read(written / f"again/{name}"), read(written / f"finished/{name}"), 1e-5, name)
    old, new = (without_clock(read(written / f"{folder}/eval_results.json")) for folder in ("finished", "again"))
    del old["epoch"]  # reported only by training
    assert_close({name: new.get(name) for name in old}, old, 1e-5)


def test_the_checkpoint_of_a_finished_run_is_evaluated_the_same(written):
    """checkpoint-30 is the best one, and so the kept model."""
    run(evaluate_qa, "--model_name_or_path", "finished/checkpoint-30", "--output_dir", "again")
    for name in ("predictions.json", "null_odds.json"):
        assert_close(read(written / f"again/{name}"), read(written / f"finished/{name}"), 1e-5, name)


def test_finished_model_gives_the_same_answers(written, capsys):
    stored = read(written / "asked/answers.jsonl")
    (written / "asked/answers.jsonl").unlink()
    run(ask, *COMMANDS["asked"])
    assert_close(read(written / "asked/answers.jsonl"), stored, 1e-5)

    rows = {
        qa["id"]: {"question": qa["question"], "context": paragraph["context"]}
        for paragraph in read(written / "data/dev.json")["data"][0]["paragraphs"]
        for qa in paragraph["qas"]
    }
    answerer = pipeline("question-answering", model="finished", device="cpu")
    answers = answerer([rows[row["id"]] for row in stored], top_k=3)
    assert_close(answers, [row["answers"] for row in stored], 1e-5)
    assert_close(answerer(**rows["ned-1"]), stored[1]["answers"][0], 1e-5)

    capsys.readouterr()
    question = ("--question", rows["ned-1"]["question"], "--context", rows["ned-1"]["context"])
    run(ask, "--model_name_or_path", "finished", "--device", "cpu", *question)
    best, printed = stored[1]["answers"][0], capsys.readouterr().out
    assert re.search(rf"answer +{best['answer']}\n", printed) and f"[{best['answer']}]" in printed
    assert f"characters {best['start']} to {best['end']}" in printed


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub, with the client pointed at it and a token that may write."""
    with serve_to_client(monkeypatch, tmp_path / "hub_cache") as server:
        yield server


def test_the_finished_model_is_published_the_same(hub, written):
    run(publish, "--model_dir", "finished", "--hub_model_id", "me/model")
    repository = hub.repositories["me/model"]
    sent = repository.files("main")
    kept = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "eval_results.json"}
    assert sent.keys() == kept | {"README.md", "settings.yaml", ".gitattributes"}
    assert {name: sent[name] for name in kept} == {name: (written / "finished" / name).read_bytes() for name in kept}
    assert yaml.safe_load(sent["settings.yaml"]) == read(written / "published/settings.yaml")
    run_time = read(written / "finished/run.json")["finished"]
    assert repository.tags == {"run-" + run_time.replace(":", "").replace(" ", "-")}
    assert str(written).encode() not in b"".join(sent.values()) and WRITTEN_AT.encode() not in b"".join(sent.values())

    card = ModelCard(sent["README.md"].decode()).data
    assert card.pipeline_tag == "question-answering" and card.library_name == "transformers"
    assert card.tags == ["extractive-qa"] and card.metrics == ["exact", "f1"]
    stored = read(written / "finished/eval_results.json")
    results = {item.metric_type: item.metric_value for item in card.eval_results}
    assert results == {name: round(stored[name], 4) for name in ("exact", "f1")}

    data = ("--validation_file", "data/dev.json", "--cache_dir", "cache", "--output_dir", "of_hub")
    run(evaluate_qa, "--model_name_or_path", "me/model", *data)
    assert_close(read(written / "of_hub/null_odds.json"), read(written / "finished/null_odds.json"), 1e-5)


def nested_keys(value, path: str = "") -> set[str]:
    """Return the keys of nested dictionaries as ``one/two/three``."""
    if not isinstance(value, dict):
        return set()
    return {f"{path}{key}" for key in value}.union(*(nested_keys(part, f"{path}{key}/") for key, part in value.items()))


@pytest.mark.parametrize(
    "name",
    [
        "finished/settings.yaml",
        "finished/run.json",
        "finished/train_results.json",
        "finished/eval_results.json",
        "finished/checkpoint-30/files.json",
        "finished/checkpoint-30/settings.yaml",
        "interrupted/checkpoint-15/files.json",
        "checked/summary.json",
    ],
)
def test_every_key_is_still_written(repeated, name):
    missing = nested_keys(read(FIXTURE / name)) - nested_keys(read(repeated / name))
    assert not missing


@pytest.mark.parametrize("name", ["interrupted/checkpoint-15", "finished/checkpoint-30", "finished"])
def test_every_file_is_still_written(repeated, name):
    stored, now = ({path.name for path in (folder / name).iterdir()} for folder in (FIXTURE, repeated))
    assert stored <= now and ("checkpoint" in name or {"report.html", "curves.png"} <= now)


def test_the_same_command_trains_the_same_model(repeated):
    """Compare weights after 30 steps; another processor may round differently."""
    assert_same_weights(repeated / "finished", FIXTURE / "finished", 1e-5)
    for name in ("predictions.json", "null_odds.json"):
        assert_close(read(repeated / f"finished/{name}"), read(FIXTURE / f"finished/{name}"), 1e-3, name)
    for name in ("settings.yaml", "train_results.json", "eval_results.json", "run.json"):
        old, new = (without_clock(read(folder / f"finished/{name}")) for folder in (FIXTURE, repeated))
        for values, folder in ((old, WRITTEN_AT), (new, str(repeated))):
            values |= {key: value.replace(folder, "") for key, value in values.items() if isinstance(value, str)}
        assert_close({key: new.get(key) for key in old}, old, 1e-3, name)
    assert read(repeated / "checked/summary.json") == read(FIXTURE / "checked/summary.json")

"""Runs in bf16 on a CPU: resumed bit for bit, moved between processors, and what their results say of it."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.commands import read, run, train_tiny
from helpers.processors import keep_speed

import ask
import evaluate_qa
from qa.hub.model_card import make_card
from qa.model import cpu_precision
from qa.runtime.errors import UserError

MORE = ("--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2, "--eval_strategy", "no")
MORE += ("--load_best_model_at_end", "false", "--max_eval_samples", 8)


@pytest.fixture
def has_bf16():
    """A function that says whether this processor has bf16 arithmetic, and how fast it is."""
    patch = pytest.MonkeyPatch()

    def say(capable: bool, speed: float = 5.0) -> None:
        patch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": capable})
        patch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: capable)
        keep_speed(speed)

    yield say
    patch.undo()
    keep_speed(1.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text("max_dropped: 1\n", encoding="utf-8")
    return path


@pytest.fixture
def train(tiny_data, tiny_model, recipe):
    def start(output: Path, *argv) -> None:
        train_tiny(tiny_data, tiny_model, output, "--config", recipe, *MORE, *argv)

    return start


def interrupted(finished: Path, folder: Path) -> Path:
    """Return a copy of a finished run as it was after its second step."""
    shutil.copytree(finished, folder)
    for name in ("train_results.json", "all_results.json", "trainer_state.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-4")
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def precision_of(folder: Path) -> str:
    return read(folder / "run.json")["resolved"]["precision"]


@pytest.fixture
def in_bf16(has_bf16, train, tmp_path) -> Path:
    has_bf16(True)
    train(tmp_path / "bf16")
    assert precision_of(tmp_path / "bf16") == "bf16"
    return tmp_path / "bf16"


def test_a_run_in_bf16_is_resumed_bit_for_bit(in_bf16, has_bf16, train, tmp_path, capsys):
    """Even where the processor is busy now, so that products in bf16 would seem slower."""
    other = interrupted(in_bf16, tmp_path / "resumed")
    has_bf16(True, speed=0.5)
    train(other)
    assert "precision: bf16, as in the checkpoint" in capsys.readouterr().out
    assert weights(other) == weights(in_bf16) and precision_of(other) == "bf16"
    train(tmp_path / "fp32")
    assert precision_of(tmp_path / "fp32") == "fp32" and weights(tmp_path / "fp32") != weights(in_bf16)


def test_a_run_moves_to_a_processor_without_bf16_and_back(in_bf16, has_bf16, train, tmp_path, capsys):
    other = interrupted(in_bf16, tmp_path / "moved")
    has_bf16(False)
    capsys.readouterr()
    train(other)
    printed = capsys.readouterr()
    note = "the checkpoint was computed in bf16, which this device lacks: continuing in fp32"
    assert note in " ".join(printed.err.split()) and "precision" not in printed.err.partition("settings changed")[2]
    assert precision_of(other) == "fp32"
    manifest = json.loads((other / "checkpoint-4/files.json").read_text(encoding="utf-8"))
    assert manifest["resolved"]["precision"] == "fp32"

    (other / "train_results.json").unlink()
    has_bf16(True)
    train(other)
    assert precision_of(other) == "fp32", "a run stays in the precision of its last checkpoint"


def test_another_precision_that_is_asked_for_is_another_recipe(in_bf16, train, tmp_path):
    other = interrupted(in_bf16, tmp_path / "asked")
    with pytest.raises(UserError, match="other settings: precision bf16 -> fp32"):
        train(other, "--precision", "fp32")
    train(other, "--precision", "fp32", "--resume_from_checkpoint", "last")
    assert precision_of(other) == "fp32"


def test_the_same_precision_in_another_spelling_is_the_same_recipe(has_bf16, train, tmp_path, capsys):
    has_bf16(False)
    train(tmp_path / "run", "--fp16", "true")
    for number, argv in enumerate([("--precision", "fp16"), ("--precision", "fp32"), ()]):
        other = interrupted(tmp_path / "run", tmp_path / f"resumed{number}")
        capsys.readouterr()
        train(other, *argv)
        assert precision_of(other) == "fp32" and weights(other) == weights(tmp_path / "run")
        (note,) = [line for line in capsys.readouterr().err.splitlines() if "settings changed" in line]
        assert "output_dir" in note and note.count(" -> ") == 1


def test_bf16_that_was_asked_for_is_resumed_where_it_is_emulated(has_bf16, train, tmp_path, capsys):
    has_bf16(False, speed=0.01)
    train(tmp_path / "run", "--precision", "bf16")
    assert "warning: precision bf16 is 100.0 times slower" in " ".join(capsys.readouterr().err.split())
    other = interrupted(tmp_path / "run", tmp_path / "resumed")
    train(other, "--precision", "bf16")
    assert precision_of(other) == "bf16" and weights(other) == weights(tmp_path / "run")


def test_the_precision_stands_beside_the_scores(in_bf16, tmp_path, capsys):
    capsys.readouterr()
    cache = ("--cache_dir", tmp_path / "cache")
    for folder, argv in (("auto", ()), ("fp32", ("--precision", "fp32"))):
        run(evaluate_qa, "--model_name_or_path", in_bf16, "--output_dir", tmp_path / folder, *cache, *argv)
        precision, printed = "bf16" if folder == "auto" else "fp32", capsys.readouterr().out
        assert f"\n  precision    {precision}\n" in printed and f"precision: {precision}, " in printed
        assert read(tmp_path / folder / "eval_results.json")["precision"] == precision
        page = (tmp_path / folder / "report.html").read_text(encoding="utf-8")
        assert f"<dt>precision</dt><dd>{precision}</dd>" in page
    trained = read(in_bf16 / "eval_results.json")
    again = read(tmp_path / "auto/eval_results.json")
    assert trained["precision"] == "bf16" and trained["loss"] == again["loss"], "the same figures as after training"
    assert again["loss"] != read(tmp_path / "fp32/eval_results.json")["loss"]
    assert "with exactly these weights, in bf16." in str(make_card(in_bf16, "jo/model"))


def test_questions_are_answered_in_bf16(in_bf16, capsys):
    question = (
        "--question",
        "Where was Mira born?",
        "--context",
        "Mira was born in Talven in 1901.",
        "--device",
        "cpu",
    )
    printed = []
    for argv in ((), ("--precision", "bf16"), ("--precision", "fp32")):
        capsys.readouterr()
        run(ask, "--model_name_or_path", in_bf16, *question, *argv)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1], "auto is bf16 on this processor"
    answerers = [ask.QuestionAnswerer.from_pretrained(str(in_bf16), "cpu", precision=each) for each in ("bf16", "fp32")]
    low, full = (each("Where was Mira born?", "Mira was born in Talven in 1901.") for each in answerers)
    assert low["score"] != full["score"] == pytest.approx(low["score"], abs=0.02)
    old = ask.pipeline("question-answering", model=str(in_bf16), device="cpu")
    assert old("Where was Mira born?", "Mira was born in Talven in 1901.") == full, "as the pipeline was: fp32"
    assert {weight.dtype for weight in old.model.parameters()} == {cpu_precision.torch.float32}

"""The command line overrides a file, and no level may contradict itself: precision in all its spellings, and flags."""

import pytest
from helpers.commands import read, train_tiny

from qa.model.device import device_precision, fit_to_device, wanted_precision
from qa.options.arguments import AskArguments, DataArguments
from qa.options.parser import parse_arguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError


def parse(tmp_path, text, *argv) -> TrainingOptions:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return parse_arguments((TrainingOptions,), ["--output_dir", "x", *argv], default_config=tmp_path / "c.yaml")[0]


def refusal(*args) -> str | None:
    """Return the error of ``parse``; None if the options are accepted."""
    try:
        parse(*args)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "argv", "precision"),
    [
        ("fp16: true", "--precision fp32", "fp32"),
        ("bf16: true", "--precision fp32", "fp32"),
        ("bf16: true", "--precision fp16", "fp16"),
        ("fp16: true", "--bf16 true", "bf16"),
        ("precision: fp16", "--bf16 true", "bf16"),
        ("precision: fp32", "--fp16", "fp16"),
        ("precision: fp16", "--fp16 false", "fp32"),
        ("precision: bf16", "--fp16 false", "bf16"),
        ("fp16: true", "--precision auto", "fp16"),
        ("fp16: true\nprecision: fp16", "", "fp16"),
        ("fp16: true", "--fp16 false", "bf16"),
    ],
)
def test_the_command_line_wins_over_the_file_in_every_spelling_of_precision(tmp_path, text, argv, precision):
    assert refusal(tmp_path, text, *argv.split()) is None
    assert wanted_precision(parse(tmp_path, text, *argv.split()), bf16_supported=True) == precision


def test_the_command_line_wins_over_the_precision_saved_with_a_model(tmp_path):
    (tmp_path / "settings.yaml").write_text("fp16: true\n", encoding="utf-8")
    argv = ["--precision", "fp32", "--output_dir", "x"]
    (args,) = parse_arguments((TrainingOptions,), argv, saved=tmp_path / "settings.yaml")
    assert wanted_precision(args, bf16_supported=True) == "fp32" and not args.fp16


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("", "--bf16 true --precision fp32", "precision fp32 and bf16: true are mutually exclusive: give one of them"),
        ("", "--fp16 --bf16", "fp16: true and bf16: true are mutually exclusive: give one of them"),
        ("precision: bf16\nfp16: true", "", "c.yaml: precision bf16 and fp16: true are mutually exclusive"),
        ("precision: bf16\nfp16: true", "--precision fp32", "c.yaml: precision bf16 and fp16: true are mutually"),
    ],
)
def test_contradictions_within_one_source_are_refused(tmp_path, text, argv, message):
    assert message in (refusal(tmp_path, text, *argv.split()) or "accepted")


@pytest.mark.parametrize("argv", ["--bf16 true", "--bf16 true --use_cpu true", "--fp16 true", "--precision fp16"])
@pytest.mark.parametrize("more", ["", " --tf32 true"])
def test_a_precision_for_a_gpu_is_reported_on_a_cpu(tmp_path, monkeypatch, capsys, argv, more):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    assert refusal(tmp_path, "", *(argv + more).split()) is None
    args = parse(tmp_path, "", *(argv + more).split())
    assert device_precision(args) == "fp32"
    name = "fp16" if "fp16" in argv else "bf16"
    unused = f"{name} and tf32 are" if more else f"{name} is"
    line = f"precision: fp32, as this processor has no bf16 arithmetic ({unused} for GPUs)"
    assert " ".join(capsys.readouterr().out.split()) == line
    used = fit_to_device(args, "fp32")
    assert not (used.fp16 or used.bf16) and used.mixed_precision == "no"


def test_evaluation_in_half_precision_needs_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert refusal(tmp_path, "", "--bf16_full_eval") is None
    args = parse(tmp_path, "", "--bf16_full_eval")
    assert device_precision(args) == "fp32" and not fit_to_device(args, "fp32").bf16_full_eval
    assert "(bf16_full_eval is for GPUs)" in " ".join(capsys.readouterr().out.split())


def test_a_run_on_a_cpu_with_options_for_a_gpu(tmp_path, tiny_data, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    output = tmp_path / "run"
    train_tiny(tiny_data, tiny_model, output, "--bf16", "--tf32", "--max_steps", 2, "--config", write_recipe(tmp_path))
    assert "(bf16 and tf32 are for GPUs)" in " ".join(capsys.readouterr().out.split())
    assert read(output / "run.json")["resolved"]["precision"] == "fp32"


def test_the_precision_saved_with_a_model_is_that_of_its_gpu(tmp_path):
    """Where the model was trained says nothing of the processor that evaluates it; fp32 is meant for any."""
    kinds = DataArguments, TrainingOptions
    for saved, flags in (("bf16", (False, True)), ("fp16", (True, False)), ("fp32", (False, False))):
        (tmp_path / "settings.yaml").write_text(f"precision: {saved}\n", encoding="utf-8")
        _, args = parse_arguments(kinds, ["--output_dir", "x"], saved=str(tmp_path / "settings.yaml"))
        assert (args.fp16, args.bf16) == flags and args.precision == ("fp32" if saved == "fp32" else "auto")
        (asked,) = parse_arguments((AskArguments,), [], saved=str(tmp_path / "settings.yaml"))
        assert asked.precision == args.precision
        _, args = parse_arguments(
            kinds, ["--precision", "bf16", "--output_dir", "x"], saved=str(tmp_path / "settings.yaml")
        )
        assert args.precision == "bf16" and not args.fp16


def write_recipe(folder):
    path = folder / "recipe.yaml"
    path.write_text("fp16: true\nmax_dropped: 1\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("rest", [[], ["--max_seq_length", "9"], ["--config", "c.yaml"]])
def test_flags_work_without_a_value(tmp_path, monkeypatch, rest):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("version_2_with_negative: false\n", encoding="utf-8")
    kinds = DataArguments, TrainingOptions
    try:
        parse_arguments(kinds, ["--version_2_with_negative"])
    except UserError as error:
        pytest.fail(f"refused: {error}")
    data, args = parse_arguments(kinds, ["--fp16", "--output_dir", "x", "--version_2_with_negative", *rest])
    assert data.version_2_with_negative is True and args.fp16
    data, args = parse_arguments(kinds, ["--version_2_with_negative", "false", "--fp16=false", *rest])
    assert data.version_2_with_negative is False and not args.fp16
    assert parse_arguments((AskArguments,), ["--handle-impossible-answer"])[0].handle_impossible_answer is True


def test_a_flag_does_not_take_another_word_for_its_value():
    with pytest.raises(UserError, match=r"version_2_with_negative: must be true or false, not 'train\.json'"):
        parse_arguments((DataArguments,), ["--version_2_with_negative", "train.json"])

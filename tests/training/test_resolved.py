"""What follows from the options is an object of its own; the options stay as they were given."""

import copy
import dataclasses
import gzip
import json

import pytest
import torch
import yaml
from helpers.commands import read, run, train_tiny

import ask
import evaluate_qa
import preprocess
from qa.options.arguments import DataArguments
from qa.options.parser import GivenOptions
from qa.options.training_arguments import TrainingOptions
from qa.training.resolved import Batches, ResolvedRun, trainer_arguments


def values(arguments) -> dict:
    return {item.name: getattr(arguments, item.name) for item in dataclasses.fields(arguments) if item.init}


@pytest.fixture
def parsed(monkeypatch):
    """Every dataclass of options that a command builds, with a copy of its values at that time."""
    build, seen = GivenOptions.build, []

    def recorded(self, *kinds):
        built = build(self, *kinds)
        seen.extend((arguments, copy.deepcopy(values(arguments))) for arguments in built)
        return built

    monkeypatch.setattr(GivenOptions, "build", recorded)
    return seen


def check_unchanged(parsed, *kinds) -> None:
    assert {type(arguments).__name__ for arguments, _ in parsed} == set(kinds)
    for arguments, before in parsed:
        assert values(arguments) == before
    parsed.clear()


@pytest.fixture
def with_unanswerable(tiny_data, tmp_path):
    """The tiny data, where the first question has no answer."""
    for name, opener in (("train.json", open), ("dev.json.gz", gzip.open)):
        with opener(tiny_data / name, "rt", encoding="utf-8") as file:
            data = json.load(file)
        data["data"][0]["paragraphs"][0]["qas"][0] |= {"answers": [], "is_impossible": True}
        with opener(tmp_path / name, "wt", encoding="utf-8") as file:
            json.dump(data, file)
    return tmp_path


def test_no_command_changes_its_options(parsed, with_unanswerable, tiny_model, tmp_path):
    """Though the data decide whether there are questions without an answer, the device the precision, the plan the
    batches, and preprocess.py looks at all problems before it is strict."""
    data, model = with_unanswerable, tmp_path / "model"
    more = ("--max_steps", 2, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    train_tiny(data, tiny_model, model, *more, "--gpu_memory_gb", 6)
    check_unchanged(parsed, "ModelArguments", "DataArguments", "TrainingOptions")
    settings, resolved = yaml.safe_load((model / "settings.yaml").read_text()), read(model / "run.json")["resolved"]
    assert settings["version_2_with_negative"] is True, "as found in the data"
    assert settings["fp16"] is True and resolved["precision"] == "fp32", "as config.yaml asks, and as on a CPU"
    assert settings["gradient_accumulation_steps"] == 2 and resolved["gradient_accumulation_steps"] == 1

    run(evaluate_qa, "--model_name_or_path", model, "--cache_dir", tmp_path / "cache")
    check_unchanged(parsed, "ModelArguments", "DataArguments", "TrainingOptions", "EvaluationArguments")
    assert read(model / "evaluation/eval_results.json")["NoAns_total"] == 1
    run(ask, "--model_name_or_path", model, "--question", "Who?", "--context", "Ann wrote it.", "--device", "cpu")
    check_unchanged(parsed, "ModelArguments", "DataArguments", "AskArguments")
    files = ("--train_file", data / "train.json", "--tokenizer_name", tiny_model, "--output_dir", tmp_path / "checked")
    run(preprocess, *files, "--strict", "true", "--cache_dir", tmp_path / "cache")
    check_unchanged(parsed, "ModelArguments", "DataArguments", "TrainingOptions")


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", **more)


def resolve(args: TrainingOptions, precision: str, **data) -> ResolvedRun:
    return ResolvedRun.from_options(DataArguments(**data), args, precision, has_unanswerable=False)


def test_the_trainer_gets_the_resolved_run_and_the_options_stay():
    args = options(fp16=True, push_to_hub=True, per_device_train_batch_size=4, use_cpu=True)
    before = copy.deepcopy(values(args))
    resolved = dataclasses.replace(resolve(args, "fp32"), batches=Batches(2, 3, 1, True))
    given = trainer_arguments(args, resolved, eval_strategy="no")
    assert values(args) == before
    assert not given.fp16 and not given.bf16 and not given.push_to_hub and not given.dataloader_pin_memory
    assert Batches.from_args(given) == resolved.batches
    changed = {name for name, value in values(given).items() if value != before[name]}
    expected = {"fp16", "push_to_hub", "per_device_train_batch_size", "gradient_accumulation_steps"}
    expected |= {"per_device_eval_batch_size", "activation_checkpointing", "gradient_checkpointing"}
    assert changed == expected, "nothing else"


def test_a_gpu_gets_the_precision_that_was_resolved(monkeypatch):
    args = options()
    monkeypatch.setattr(TrainingOptions, "device", torch.device("cuda"))
    given = resolve(args, "fp16").over(args)
    assert given.fp16 and not given.bf16 and given.dataloader_pin_memory
    assert given.accelerator_config.non_blocking and not args.accelerator_config.non_blocking and not args.fp16


def test_padding_follows_from_two_options():
    assert resolve(options(), "fp32", max_seq_length=99).pad_to is None
    assert resolve(options(), "fp32", max_seq_length=99, pad_to_max_length=True).pad_to == 99


def test_batches_that_several_processes_share():
    batches = Batches(4, 3, 5, False)
    assert batches.shared(2) == Batches(2, 3, 5, False) and batches.as_alone(2) == batches
    odd = Batches(4, 2, 5, False)
    assert odd.shared(3) == Batches(3, 1, 5, False) and odd.as_alone(3) == Batches(3, 3, 5, False)
    run = dataclasses.replace(resolve(options(), "bf16"), batches=odd)
    assert run.record(3)["per_device_train_batch_size"] == run.record(3)["gradient_accumulation_steps"] == 3
    assert run.record(2) == {"precision": "bf16"} | dataclasses.asdict(odd)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.precision = "fp32"

"""The plan: counts, memory estimates and the choice of batches."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import read, train_tiny
from helpers.windows import LENGTHS
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AlbertConfig, BertConfig

from benchmarks.estimates import kept_bytes
from qa.model import memory
from qa.model.memory import GIB, LiveBytes, of_evaluation, of_training
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.parser import parse_arguments
from qa.options.training_arguments import TrainingOptions, check_training
from qa.runtime.errors import UserError
from qa.training.planner import choose_batch, choose_eval_batch, make_plan, plan_epoch
from qa.training.resolved import Batches
from qa.training.sampling import LengthGroupedSampler
from qa.training.trainer import QATrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu_new"}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
XXLARGE = {"hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 64, "num_hidden_layers": 12}


def albert(**sizes) -> AlbertConfig:
    return AlbertConfig(**NO_DROPOUT | {"embedding_size": 128, "vocab_size": 30_000} | sizes)


SMALL = albert(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=4, vocab_size=100)


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", **more)


def needed(config=SMALL, batch=8, length=128, precision="fp32", recompute=False, **more) -> memory.Memory:
    return of_training(config, options(**more), batch, length, precision, recompute)


def test_live_bytes_of_a_few_tensors():
    with LiveBytes() as count:
        kept = torch.zeros(1024)
        view = kept[:512].view(2, 256)
        temporary = torch.ones(2048)
        assert count.live == 4096 + 8192
        del temporary
        small = torch.ones(1)
        assert count.live == 4096 + 512, "rounded up to the block size of the allocator"
    assert count.peak == 12_288 and view.shape and small.shape


@pytest.mark.parametrize("recompute", [False, True])
def test_live_bytes_agree_with_the_tracker_of_torch(recompute):
    tracker = pytest.importorskip("torch.distributed._tools.mem_tracker")
    with FakeTensorMode():
        model = memory.build_model(SMALL, options(), recompute)
        theirs = tracker.MemTracker()
        with theirs:
            memory.forward(model, 8, 128, "fp32").backward()
        model.zero_grad()
        with LiveBytes() as ours:
            memory.forward(model, 8, 128, "fp32").backward()
    peak = sum(snapshot["Total"] for snapshot in theirs.get_tracker_snapshot("peak").values())
    weights = sum(weight.untyped_storage().nbytes() for weight in model.parameters())
    assert 0.99 * ours.peak < peak < 1.01 * (ours.peak + weights), "the tracker also counts the weights that are used"


@pytest.mark.parametrize(
    ("attention", "fused", "expected"),
    [("eager", False, 3.60), ("eager", True, 2.33), (None, False, 2.97), (None, True, 1.70)],
)
def test_activations_of_albert_base_at_8_x_384(attention, fused, expected):
    """GiB that the forward pass keeps, in fp32, as measured with real tensors. The peak is higher."""
    args = options(attn_implementation=attention, fused_gelu=fused)
    assert kept_bytes(albert(**BASE), args, 8, 384) / GIB == pytest.approx(expected, abs=0.005)
    peak = needed(albert(**BASE), 8, 384, attn_implementation=attention, fused_gelu=fused).activations / GIB
    assert expected < peak < expected + 0.11


def test_memory_of_albert_base_in_fp16_and_of_xxlarge_with_checkpointing():
    assert needed(albert(**BASE), 8, 384, "fp16").total < 2.5 * GIB
    one, eight = (needed(albert(**XXLARGE), batch, 384, "fp16", True).total / GIB for batch in (1, 8))
    assert one == pytest.approx(3.3, rel=0.05) and eight == pytest.approx(4.3, rel=0.05)


def test_memory_parts_of_a_small_model():
    with FakeTensorMode():
        count = sum(weight.numel() for weight in memory.build_model(SMALL, options(), False).parameters())
    parts = needed()
    assert parts.gradients == 4 * count and parts.weights == pytest.approx(4 * count, rel=0.05), "plus two buffers"
    assert parts.optimizer == pytest.approx(8 * count, rel=0.01)
    assert needed(optim="sgd").optimizer < 0.01 * parts.optimizer
    assert parts.total == sum(dataclasses.astuple(parts))


def test_memory_grows_with_the_batch_and_shrinks_with_recomputation():
    for one, more in (({"batch": 4}, {"batch": 8}), ({"length": 64}, {"length": 128}), ({"precision": "bf16"}, {})):
        assert needed(**one).activations < needed(**more).activations
    assert needed(recompute=True).activations < 0.5 * needed().activations
    assert needed(precision="bf16") == needed(precision="fp16")
    assert needed(gradient_accumulation_steps=2).total >= needed().total
    evaluation = of_evaluation(SMALL, options(), 8, 128, "fp32", 0)
    assert evaluation.activations < needed().activations / 4 and evaluation.gradients == 0
    bert = BertConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=4, vocab_size=100)
    assert needed(bert, recompute=True).activations < needed(bert).activations


def test_several_processes_exchange_gradients_in_buckets(monkeypatch):
    alone, evaluated = needed(), of_evaluation(SMALL, options(), 8, 128, "fp32", 5)
    monkeypatch.setattr(TrainingOptions, "world_size", 2)
    buckets = alone.gradients  # kept from the first step on, so in evaluation as well
    assert needed() == dataclasses.replace(alone, gradients=alone.gradients + buckets)
    assert of_evaluation(SMALL, options(), 8, 128, "fp32", 5) == dataclasses.replace(evaluated, gradients=buckets)


def test_padding_and_steps_match_the_sampler():
    args = options(
        per_device_train_batch_size=8, gradient_accumulation_steps=3, train_sampling_strategy="group_by_length"
    )
    padding, steps = plan_epoch(LENGTHS, args, None)
    order = list(LengthGroupedSampler(LENGTHS, 8 * 3, args.seed))
    padded = sum(LENGTHS[order[i : i + 8]].max() * len(order[i : i + 8]) for i in range(0, len(order), 8))
    assert padding == pytest.approx(padded / LENGTHS.sum() - 1) and padding < 0.05
    assert steps == 167, "4,003 windows are 501 batches of 8"
    assert plan_epoch(LENGTHS, args, 384)[0] == pytest.approx(384 / LENGTHS.mean() - 1)
    assert plan_epoch(LENGTHS, options(), None)[0] > 0.5


@pytest.mark.parametrize(
    ("usable", "expected"),
    [
        (1700, (16, False)),
        (1000, (8, False)),
        (500, (4, False)),
        (499, (16, True)),  # two would fit without activation checkpointing, which is slower
        (299, (8, True)),
        (120, (1, True)),
        (99, None),
    ],
)
def test_choice_of_batch_size_and_recomputation(usable, expected):
    """A step needs 100 bytes, plus 100 per window, or 20 with activation checkpointing."""
    assert choose_batch(lambda size, recompute: 100 + (20 if recompute else 100) * size, 16, usable) == expected


def test_the_chosen_batch_size_divides_the_effective_batch():
    def needs(size, recompute):
        if recompute:
            raise ValueError("not supported")
        return 100 * size

    assert choose_batch(needs, 12, 650) == (6, False) and choose_batch(needs, 12, 350) == (3, False)
    assert choose_batch(needs, 12, 50) is None
    assert choose_batch(lambda size, recompute: 10 * size, 12, 1e9, recompute_only=True) == (12, True)


@pytest.mark.parametrize(
    ("size", "usable", "expected"),
    [(8, 1e9, 128), (8, 500, 32), (8, 899, 64), (8, 180, 8), (8, 179, 4), (8, 99, 1), (12, 1e9, 96), (256, 1e9, 256)],
)
def test_choice_of_the_evaluation_batch(size, usable, expected):
    """An evaluation needs 100 bytes, plus 10 per window."""
    assert choose_eval_batch(lambda size: 100 + 10 * size, size, usable) == expected


def test_the_plan_raises_the_evaluation_batch_where_memory_is_known():
    chosen, plan = make_plan(SMALL, options(gpu_memory_gb="6"), LENGTHS, "bf16")
    assert chosen.per_device_eval_batch_size == plan.evaluation_batch == 128 and plan.peak <= plan.usable
    assert make_plan(SMALL, options(), LENGTHS, "bf16")[0].per_device_eval_batch_size == 8


def test_a_plan_with_a_memory_limit():
    lengths = np.full(1000, 384)
    args = options(per_device_train_batch_size=2, gradient_accumulation_steps=2, per_device_eval_batch_size=64)
    chosen, plan = make_plan(albert(**XXLARGE), dataclasses.replace(args, gpu_memory_gb="6"), lengths, "bf16")
    assert plan.peak <= plan.usable == 5 * GIB and plan.effective_batch == 4 and plan.steps == 3 * 250
    assert chosen.activation_checkpointing and chosen.per_device_train_batch_size == plan.batch == 4
    assert chosen.gradient_accumulation_steps == 1 and chosen.per_device_eval_batch_size == 32
    assert (
        "(micro-batch size 4), bf16, activation checkpointing" in plan.summary() and "5.00 GiB usable" in plan.details()
    )
    same, plan = make_plan(SMALL, args, lengths, "bf16")
    assert same == Batches.from_args(args) and plan.usable is None and not plan.recompute
    with pytest.raises(
        UserError, match=r"does not fit: a micro-batch of one window of 384 tokens needs 0\.07 GiB, and 0\.05 "
    ):
        make_plan(SMALL, dataclasses.replace(args, gpu_memory_gb="1.05"), lengths, "bf16")


def test_the_plan_of_a_compiled_run_shows_its_batch_lengths():
    args = options(train_sampling_strategy="group_by_length", torch_compile=True)
    assert ", to 8 lengths" in make_plan(SMALL, args, LENGTHS, "bf16")[1].details()
    assert " lengths" not in make_plan(SMALL, args, LENGTHS, "bf16", pad_to=384)[1].details()


def test_a_model_that_cannot_be_measured_keeps_its_batch_size(monkeypatch, capsys):
    def of_training(*args):
        raise RuntimeError("data is needed")

    monkeypatch.setattr(memory, "of_training", of_training)
    args = options(per_device_train_batch_size=4)
    with pytest.raises(UserError, match="cannot be estimated: data is needed; leave out gpu_memory_gb"):
        make_plan(SMALL, dataclasses.replace(args, gpu_memory_gb="6"), LENGTHS, "bf16")
    monkeypatch.setattr("qa.training.planner.usable_memory", lambda args, found: 5 * GIB)
    automatic = dataclasses.replace(args, gpu_memory_gb="auto")
    same, plan = make_plan(SMALL, automatic, LENGTHS, "bf16")
    assert same == Batches.from_args(automatic) and plan.step is None and plan.batch == 4
    assert "note: the memory of this model cannot be estimated" in capsys.readouterr().err


RECIPES = {  # sizes in the configurations on the Hub
    "base": BASE,
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
    "xlarge": {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_hidden_layers": 24},
    "xxlarge": XXLARGE,
}


@pytest.mark.parametrize(
    "name",
    ["base", pytest.param("large", marks=pytest.mark.slow), pytest.param("xlarge", marks=pytest.mark.slow), "xxlarge"],
)
def test_every_recipe_fits_6_gb(name):
    path = str(REPOSITORY / f"configs/albert-{name}-v2.yaml")
    _, data, args = parse_arguments((ModelArguments, DataArguments, TrainingOptions), ["--config", path])
    assert args.gpu_memory_gb == "auto" and args.dropout == 0 and args.warmup_steps == 0.1
    args = dataclasses.replace(args, gpu_memory_gb="6")
    _, plan = make_plan(albert(**RECIPES[name]), args, np.full(88_500, data.max_seq_length), "fp16")
    assert plan.peak <= 5 * GIB and plan.effective_batch == 48
    print(f"albert-{name}-v2: {plan.summary()}")


def test_an_invalid_gpu_memory_is_rejected():
    for wrong in ("six", "0.5", "nan", "-6"):
        with pytest.raises(UserError, match="gpu_memory_gb must be auto or a number above 1"):
            check_training(dataclasses.replace(options(num_train_epochs=1), output_dir="x", gpu_memory_gb=wrong))


def test_plan_prints_the_plan_and_does_not_train(tiny_data, tiny_model, tmp_path, capsys):
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--plan", "--gpu_memory_gb", 6)
    printed = capsys.readouterr().out
    for name in ("windows", "padding", "steps", "peak memory", "gradients", "optimizer states", "activations", "5.00"):
        assert name in printed
    assert not (tmp_path / "run").exists()


def test_a_plan_for_a_gpu_does_not_speak_of_the_cpu(tiny_data, tiny_model, tmp_path, capsys):
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--plan", "true", "--gpu_memory_gb", 6, "--precision", "bf16")
    printed = capsys.readouterr()
    assert "precision           bf16" in printed.out and "processor" not in printed.out + printed.err


MORE = ("--save_strategy", "steps", "--eval_strategy", "no", "--save_steps", 2, "--max_eval_samples", 2)
MORE += ("--load_best_model_at_end", "false")
TIGHT = memory.WORKSPACE / GIB + 1.0005  # GB in which a micro-batch of 16 windows does not fit


@pytest.fixture(scope="module")
def planned(tiny_data, tiny_model, tmp_path_factory):
    """The folder of a run for which larger micro-batches were chosen than asked for, interrupted at its end."""
    run = tmp_path_factory.mktemp("planned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QATrainer, "save_finished", lambda trainer: (_ for _ in ()).throw(UserError("interrupted")))
        with pytest.raises(UserError, match="interrupted"):
            train_tiny(tiny_data, tiny_model, run, *MORE, "--gpu_memory_gb", 6)
    return run


def test_a_checkpoint_holds_what_was_asked_for_and_what_was_chosen(planned):
    settings = yaml.safe_load((planned / "checkpoint-6/settings.yaml").read_text())
    assert settings["gradient_accumulation_steps"] == 2 and "per_device_train_batch_size" not in settings, "8"
    resolved = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 128}
    resolved |= {"activation_checkpointing": False, "precision": "fp32"}
    assert read(planned / "checkpoint-6/files.json")["resolved"] == resolved


def differing(err: str) -> set[str]:
    """Return the names of the settings that a resumed run says are not as before."""
    (note,) = [line for line in err.splitlines() if "settings changed since" in line]
    return {item.split()[0] for item in note.partition("checkpoint: ")[2].split(", ")}


def test_a_resumed_run_keeps_its_chosen_batches(planned, tiny_data, tiny_model, tmp_path, capsys):
    """A run resumed with less memory keeps the batches it was started with, instead of choosing again."""
    run = shutil.copytree(planned, tmp_path / "run")
    train_tiny(tiny_data, tiny_model, tmp_path / "other", *MORE, "--gpu_memory_gb", TIGHT)
    assert "(micro-batch size 16)" not in " ".join(capsys.readouterr().out.split())
    train_tiny(tiny_data, tiny_model, run, *MORE, "--gpu_memory_gb", TIGHT)
    printed = capsys.readouterr()
    assert "(micro-batch size 16)" in " ".join(printed.out.split()) and "resuming from" in printed.out
    assert differing(printed.err) == {"cache_dir", "gpu_memory_gb", "output_dir"}
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    assert settings["gradient_accumulation_steps"] == 2 and "per_device_train_batch_size" not in settings
    assert read(run / "run.json")["resolved"]["per_device_train_batch_size"] == 16


def as_1c928e6(checkpoint: Path, changes: dict) -> None:
    """Rewrite a checkpoint as 1c928e6 did: resolved settings, and a manifest that does not know of them."""
    path = checkpoint / "settings.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["fp16"]  # asked for in config.yaml; the run computed in fp32
    path.write_text(yaml.safe_dump({name: value for name, value in (settings | changes).items() if value is not None}))
    manifest = read(checkpoint / "files.json")
    manifest["files"]["settings.yaml"] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    kept = {"windows": "named by the code of 1c928e6", "files": manifest["files"]}
    (checkpoint / "files.json").write_text(json.dumps(kept))


CHOSEN = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": None, "dataloader_pin_memory": False}


def test_a_run_of_1c928e6_is_resumed_with_its_chosen_batches(planned, tiny_data, tiny_model, tmp_path, capsys):
    run = shutil.copytree(planned, tmp_path / "run")
    as_1c928e6(run / "checkpoint-6", CHOSEN)
    train_tiny(tiny_data, tiny_model, run, *MORE, "--gpu_memory_gb", TIGHT)
    printed = capsys.readouterr()
    assert (
        "(micro-batch size 16)" in " ".join(printed.out.split()) and f"resuming from {run}/checkpoint-6" in printed.out
    )
    assert differing(printed.err) == {"cache_dir", "gpu_memory_gb", "output_dir"}


def test_a_run_of_1c928e6_with_another_precision_or_step_is_not_resumed(
    planned, tiny_data, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)  # of a processor that cannot continue in bf16
    for name, change, message in (
        ("precision", {"precision": "bf16"}, "precision bf16 -> auto"),
        ("step", {"per_device_train_batch_size": 4}, "per_device_train_batch_size 4 -> 16"),
    ):
        run = shutil.copytree(planned, tmp_path / name)
        as_1c928e6(run / "checkpoint-6", CHOSEN | change)
        with pytest.raises(UserError, match=f"other settings: {message}"):
            train_tiny(tiny_data, tiny_model, run, *MORE, "--gpu_memory_gb", 6)


ON_A_GPU = """
import torch
from transformers import AlbertConfig
from qa.model.memory import build_model, masked_loss, of_training
from qa.options.training_arguments import TrainingOptions
from qa.runtime.process import configure_process

configure_process()
config = AlbertConfig(vocab_size=3000, embedding_size=128, hidden_size=768, intermediate_size=3072,
    num_attention_heads=12, num_hidden_layers=6, hidden_act="gelu_new",
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
args = TrainingOptions(output_dir="", report_to="none")
model = build_model(config, args, False).to("cuda")
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.ones(16, 384, dtype=torch.int64, device="cuda")
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
labels = torch.zeros(16, dtype=torch.int64, device="cuda")
for _ in range(3):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        outputs = model(**batch)
        loss = masked_loss(outputs, batch["attention_mask"], labels, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
print(of_training(config, args, 16, 384, "bf16", False).total, torch.cuda.max_memory_reserved())
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_estimate_is_near_what_a_gpu_reserves():
    command = [sys.executable, "-c", ON_A_GPU]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    planned, reserved = map(int, done.stdout.splitlines()[-1].split())
    assert planned == pytest.approx(reserved, rel=0.15), f"{planned / GIB:.2f} planned, {reserved / GIB:.2f} reserved"

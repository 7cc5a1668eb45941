"""Optimizations do not change results, running out of memory is handled, and failed training is detected."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.commands import read, run, train_tiny
from helpers.windows import collate
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AlbertConfig, AlbertForQuestionAnswering, BertConfig, BertForQuestionAnswering, Trainer
from transformers.activations import ACT2FN
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

import evaluate_qa
from qa.model.batch_splitting import split
from qa.model.device import answering_precision, device_precision, wanted_precision
from qa.model.loss import masked_loss
from qa.model.optimizations import PADDED_SDPA, enable_albert_checkpointing, fuse_gelu, prepare_model
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError
from qa.training.compilation import GRAPHS, compile_blocks, repeated_blocks
from qa.training.failure import detect_divergence, uniform_loss
from qa.training.trainer import QATrainer

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 64}
SIZES |= {"vocab_size": 50, "hidden_act": "gelu_new"}


def albert(**more) -> AlbertForQuestionAnswering:
    torch.manual_seed(0)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AlbertForQuestionAnswering(AlbertConfig(**SIZES | dropout | more, embedding_size=16))
    with torch.no_grad():
        for weight in model.parameters():  # larger than at the start, so that the activation is far from linear
            weight.mul_(3)
    return model.train()


def step(model: nn.Module, width: int | None = None, lengths=(9, 17, 33, 40)) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of one batch of windows of ``lengths`` tokens."""
    model.zero_grad()
    batch = collate(list(lengths), width)
    start, end = batch.pop("start_positions"), batch.pop("end_positions")
    loss = masked_loss(model(**batch), batch["attention_mask"], start, end)
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same_step(one, other, tolerance: float = 1e-5) -> None:
    assert one[0] == pytest.approx(other[0], abs=tolerance)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=0, atol=tolerance)


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", **more)


def test_fused_gelu_matches_gelu_new_and_keeps_its_name():
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64, requires_grad=True)
    ours, theirs = (function(x) for function in (nn.GELU(approximate="tanh"), ACT2FN["gelu_new"]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)

    model = albert()
    plain, names = step(model), list(model.state_dict())
    assert fuse_gelu(model) == 1, "ALBERT shares its layers"
    assert_same_step(step(model), plain)
    assert model.config.hidden_act == "gelu_new" and list(model.state_dict()) == names
    bert = BertForQuestionAnswering(BertConfig(**SIZES)).eval()
    plain = step(bert)
    assert fuse_gelu(bert) == 3
    assert_same_step(step(bert), plain)
    assert fuse_gelu(albert(hidden_act="gelu")) == 0


def kept_bytes(model: nn.Module, lengths=(64, 64, 64, 64)) -> int:
    """Return the bytes of activations kept for the backward pass, each storage counted once."""
    kept, own = {}, {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        batch = collate(list(lengths))
        start, end = batch.pop("start_positions"), batch.pop("end_positions")
        loss = masked_loss(model(**batch), batch["attention_mask"], start, end)
    del loss
    return sum(kept.values())


def test_padding_mask_is_created_once_and_does_not_change_results():
    model, lengths = albert(), (9, 17, 33, 64)
    theirs, kept = step(model), kept_bytes(model, lengths)
    prepare_model(model, fused_gelu=False)
    assert_same_step(step(model), theirs, 0)
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is sdpa_mask, "the library's own mask stays registered"
    assert kept - kept_bytes(model, lengths) > (3 - 1) * 4 * 64 * 64 * 4, "a matrix of floats for each layer but one"
    bert = BertForQuestionAnswering(BertConfig(**SIZES, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    plain = step(bert)
    bert.set_attn_implementation("eager")
    assert_same_step(step(bert), plain)


class Attention(TorchDispatchMode):
    """Record the calls of fused attention with the masks they get, and the copies made of masks (B, 1, 1, L)."""

    def __init__(self):
        super().__init__()
        self.calls: list[str] = []
        self.masks: list[torch.Tensor] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = [*args, *(kwargs or {}).values()]
        name = function.overloadpacket.__name__
        if name.startswith("_scaled_dot_product") and "backward" not in name:
            self.calls.append(name)
            self.masks += [x for x in inputs[3:] if isinstance(x, torch.Tensor)]
        elif name in ("_to_copy", "constant_pad_nd", "clone", "contiguous") and inputs[0].shape[1:3] == (1, 1):
            self.copies.append(name)
        return function(*args, **(kwargs or {}))


def bert() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**SIZES, hidden_dropout_prob=0, attention_probs_dropout_prob=0)).train()


def prepared(model: nn.Module) -> nn.Module:
    prepare_model(model)
    return model


def attention_of(model: nn.Module, lengths: list[int], device: str, dtype: torch.dtype | None) -> Attention:
    """Return the record of a step with windows of ``lengths`` tokens, under autocast if ``dtype`` is given."""
    batch = {name: tensor.to(device) for name, tensor in collate(lengths).items()}
    start, end = batch.pop("start_positions"), batch.pop("end_positions")
    with Attention() as record:
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            outputs = model(**batch)
        masked_loss(outputs, batch["attention_mask"], start, end).backward()
    assert all(weight.grad is not None for weight in model.qa_outputs.parameters())
    return record


def assert_mask_is_used_as_it_is(record: Attention, layers: int, dtype: torch.dtype) -> None:
    assert record.copies == [], "no layer converts or pads the mask"
    assert len(record.calls) == len(record.masks) == layers, "no layer uses the unfused attention"
    assert len({mask.data_ptr() for mask in record.masks}) == 1, "one mask serves all layers"
    mask = record.masks[0]
    assert mask.dtype == dtype and mask.min() == torch.finfo(dtype).min and mask.stride(-1) == 1
    assert [stride % 8 for stride in mask.stride()[:-1]] == [0, 0, 0]


@pytest.mark.parametrize("build", [albert, bert])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_layers_use_the_mask_as_it_is(build, dtype):
    """On a CPU the kernel is the flash kernel; windows of 33 tokens are not a multiple of 8."""
    record = attention_of(prepared(build()), [9, 17, 33], "cpu", dtype)
    assert_mask_is_used_as_it_is(record, 3, dtype or torch.float32)
    assert set(record.calls) == {"_scaled_dot_product_flash_attention_for_cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_memory_efficient_attention_of_a_gpu_takes_the_mask_as_it_is(dtype):
    """The unfused kernel is not allowed, and flash attention takes no mask."""
    model = prepared(albert())
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):
        record = attention_of(model.to("cuda"), [9, 17, 33], "cuda", dtype)
    assert_mask_is_used_as_it_is(record, 3, dtype or torch.float32)
    assert set(record.calls) == {"_scaled_dot_product_efficient_attention"}


def test_an_aligned_mask_does_not_change_a_bit():
    model = prepared(albert()).eval()
    batch = collate([9, 17, 33])
    batch = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    ours = model(**batch)
    dense = torch.zeros(3, 33).masked_fill(batch["attention_mask"] == 0, torch.finfo(torch.float32).min)
    theirs = model(**batch | {"attention_mask": dense[:, None, None, :]})
    assert ours.start_logits.equal(theirs.start_logits) and ours.end_logits.equal(theirs.end_logits)


def compiled_for(model: nn.Module, recompute: bool, widths: list[int], dynamic: bool = False) -> int:
    """Return the number of graphs for batches of these lengths, run twice each, and compare with uncompiled steps."""
    prepare_model(model)
    if recompute:
        model.activation_checkpointing_enable()
    plain = [step(model, width) for width in widths]
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(model, options(torch_compile=True, torch_compile_backend="aot_eager"), dynamic)
    for _ in range(2):
        for width, expected in zip(widths, plain, strict=True):
            assert_same_step(step(model, width), expected)
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_are_compiled_once_for_each_length(recompute):
    names = list(albert().state_dict())
    model = albert()
    assert compiled_for(model, recompute, [40 + 8 * i for i in range(GRAPHS)]) == GRAPHS, "within torch's own limit"
    assert list(model.state_dict()) == names
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = BertForQuestionAnswering(BertConfig(**SIZES | dropout)).train()
    assert len(list(repeated_blocks(bert))) == 3 and compiled_for(bert, recompute, [40, 48]) == 2, (
        "one graph serves all layers"
    )


def test_few_graphs_serve_all_lengths_if_compiled_dynamically():
    assert compiled_for(albert(), False, [40 + 8 * i for i in range(6)], dynamic=True) <= 2


def test_compiled_run_matches_uncompiled_run(tiny_data, tiny_model, tmp_path):
    """Batches of 3 of 40 windows: the smaller last one, and evaluation with other sizes, run uncompiled."""
    from safetensors.torch import load_file

    more = ("--per_device_train_batch_size", 3, "--optim", "sgd", "--load_best_model_at_end", "false")
    more += ("--train_sampling_strategy", "group_by_length", "--save_strategy", "no", "--eval_strategy", "epoch")
    train_tiny(tiny_data, tiny_model, tmp_path / "plain", *more)
    torch._dynamo.reset()
    counters.clear()
    compiled = ("--torch_compile", "true", "--torch_compile_backend", "aot_eager")
    train_tiny(tiny_data, tiny_model, tmp_path / "compiled", *more, *compiled)
    assert counters["stats"]["unique_graphs"] == 2, "sentences of at most 16 tokens, and longer ones"
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("compiled", "plain"))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)
    one, other = (read(tmp_path / name / "predictions.json") for name in ("compiled", "plain"))
    assert one == other
    run(evaluate_qa, "--model_name_or_path", tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 2, "evaluating again compiles nothing"
    for backend, reason in (("nonsense", "is not one of"), ("tvm", "cannot be compiled here: .*install apache-tvm")):
        with pytest.raises(UserError, match=reason):
            train_tiny(tiny_data, tiny_model, tmp_path / backend, *more, "--torch_compile_backend", backend)


def test_step_does_not_depend_on_micro_batch_size(tiny_data, tiny_model, tmp_path):
    """Steps of 15 of 40 windows, the last of 10, in micro-batches of 15, of 5, and of 3 (the last one of 1)."""
    from safetensors.torch import load_file

    more = ("--optim", "sgd", "--load_best_model_at_end", "false", "--save_strategy", "no", "--eval_strategy", "no")
    more += ("--train_sampling_strategy", "group_by_length", "--max_eval_samples", 2)
    runs = []
    for batch in (15, 5, 3):
        cut = ("--per_device_train_batch_size", batch, "--gradient_accumulation_steps", 15 // batch)
        train_tiny(tiny_data, tiny_model, tmp_path / str(batch), *more, *cut)
        runs.append(load_file(tmp_path / str(batch) / "model.safetensors"))
    for name, weight in runs[0].items():
        for other in runs[1:]:
            torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-6)


class Waits(TorchDispatchMode):
    """Count how often the host reads a number from a tensor, which would synchronize with a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_steps_do_not_synchronize_with_the_gpu(tiny_data, tiny_model, tmp_path):
    more = ("--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false")
    more += ("--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 2)

    def waits(steps: int, logging_steps: int) -> int:
        with Waits() as counted:
            output = tmp_path / f"{steps}-{logging_steps}"
            train_tiny(tiny_data, tiny_model, output, *more, "--max_steps", steps, "--logging_steps", logging_steps)
        return counted.count

    few = waits(4, 100)
    assert waits(8, 100) == few
    assert waits(8, 2) == few + 2 * 4, "loss and gradient norm, four times: what is logged is read"


def test_activation_checkpointing_saves_memory_and_does_not_change_results():
    model = albert(num_hidden_layers=6)
    fuse_gelu(model)
    plain, kept = step(model), kept_bytes(model)
    with pytest.raises(ValueError, match="does not support"):
        model.activation_checkpointing_enable()
    enable_albert_checkpointing(model)
    assert_same_step(step(model), plain, 0)
    model.activation_checkpointing_enable()
    assert_same_step(step(model), plain, 1e-6)
    assert kept_bytes(model) < kept / 3
    assert list(model.state_dict()) == list(albert(num_hidden_layers=6).state_dict())


def test_activation_checkpointing_repeats_dropout():
    model = albert(hidden_dropout_prob=0.3)
    enable_albert_checkpointing(model)
    results = []
    for recompute in (False, True):
        if recompute:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        results.append(step(model))
    assert_same_step(*results, 1e-6)


def test_dropout_can_be_disabled():
    model = albert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    assert step(model)[0] != step(model)[0]
    prepare_model(model, dropout=0.0)
    assert_same_step(step(model), step(model), 0)
    assert_same_step(step(model), step(albert()))


def test_attention_is_fused_by_default():
    model = albert()
    assert model.config._attn_implementation == "sdpa"
    plain = step(model)
    prepare_model(model, attn_implementation="eager", fused_gelu=False)
    assert model.config._attn_implementation == "eager"
    assert_same_step(step(model), plain)
    with pytest.raises(UserError, match="attn_implementation nonsense"):
        prepare_model(model, attn_implementation="nonsense")


def test_a_saved_model_does_not_name_our_attention(tmp_path):
    """The saved model also loads in a program that has not registered our attention, with the same outputs."""
    model = albert()
    before = model.config.to_json_string()
    prepare_model(model)
    assert model.config._attn_implementation == PADDED_SDPA and model.config.to_json_string() == before
    model.save_pretrained(tmp_path)
    assert PADDED_SDPA not in (tmp_path / "config.json").read_text()
    assert AlbertForQuestionAnswering.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_optimizations_of_albert_base_are_exact_to_1e_5():
    """Compare each optimization with the unoptimized model: random weights, fp32, windows of 60 and 97 tokens."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    sizes |= {"vocab_size": 1000, "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}

    def result(width: int | None = None, recompute: bool = False, **more):
        torch.manual_seed(0)
        model = AlbertForQuestionAnswering(AlbertConfig(**sizes)).train()
        prepare_model(model, **{"fused_gelu": False, "attn_implementation": "eager"} | more)
        if recompute:
            model.activation_checkpointing_enable()
        return step(model, width, (60, 97))

    plain = result()
    improved = {
        "fused gelu": result(fused_gelu=True),
        "SDPA attention": result(attn_implementation="sdpa"),
        "padded to 128": result(width=128),
        "recomputed": result(recompute=True),
        "all together": result(128, True, fused_gelu=True, attn_implementation="sdpa"),
    }
    for name, (loss, gradients) in improved.items():
        worst = max((gradient - plain[1][key]).abs().max().item() for key, gradient in gradients.items())
        print(f"{name}: loss {abs(loss - plain[0]):.1e}, gradients {worst:.1e}")
        assert_same_step((loss, gradients), plain)


def on_gpu(monkeypatch, bf16: bool) -> None:
    """Make this machine look as one with an NVIDIA GPU, with or without bf16 arithmetic."""
    monkeypatch.setattr(TrainingOptions, "device", torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)


@pytest.mark.parametrize(
    ("asked", "kept", "used"),
    [
        ("auto", None, "fp16"),
        ("bf16", None, "bf16"),
        ("auto", "fp16", "fp16"),
        ("auto", "bf16", "fp32"),
        ("bf16", "bf16", "bf16"),
    ],
)
def test_a_gpu_without_bf16_emulates_it_only_if_asked(monkeypatch, capsys, asked, kept, used):
    on_gpu(monkeypatch, bf16=False)
    assert device_precision(options(precision=asked), kept) == used
    err = capsys.readouterr().err
    assert ("warning: this GPU has no bf16 arithmetic" in err) == (asked == "bf16")
    assert ("the checkpoint was computed in bf16, which this device lacks" in err) == (used == "fp32")
    if not kept:
        assert answering_precision(asked, torch.device("cuda", 0)) == used
        assert ("this GPU has no bf16" in capsys.readouterr().err) == (asked == "bf16")


def test_a_run_in_fp16_continues_on_the_cpu_of_a_machine_with_a_gpu_in_fp32(monkeypatch, capsys):
    on_gpu(monkeypatch, bf16=True)
    assert device_precision(options(), "fp16") == "fp16"
    monkeypatch.setattr(TrainingOptions, "device", torch.device("cpu"))
    assert device_precision(options(), "fp16") == "fp32"
    assert "computed in fp16, which this device lacks: continuing in fp32" in capsys.readouterr().err


def test_compilation_leaves_tf32_as_the_options_say(tiny_data, tiny_model, tmp_path, monkeypatch):
    original = Trainer.create_accelerator_and_postprocess

    def create(trainer):
        original(trainer)
        torch.backends.cuda.matmul.allow_tf32 = True  # as accelerate does on a GPU, in fp32 with a compiler

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create)
    before = torch.get_float32_matmul_precision()
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 1)
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_precision_is_chosen_for_the_gpu():
    assert wanted_precision(options(), True) == "bf16" and wanted_precision(options(), False) == "fp16"
    assert wanted_precision(options(fp16=True), True) == "fp16"
    assert wanted_precision(options(precision="fp32"), True) == "fp32"
    assert wanted_precision(options(precision="fp16", fp16=True), True) == "fp16"
    with pytest.raises(UserError, match="are mutually exclusive"):
        wanted_precision(options(precision="fp32", fp16=True), True)
    assert options().optim == "adamw_torch_fused", "the library's own default"


def test_uniform_loss_is_the_mean_log_of_the_lengths():
    lengths = np.array([4, 9])
    batch = collate(lengths.tolist())
    start, end = batch.pop("start_positions"), batch.pop("end_positions")
    flat = type("", (), {"start_logits": torch.zeros(2, 9), "end_logits": torch.zeros(2, 9)})
    assert masked_loss(flat, batch["attention_mask"], start, end).item() == pytest.approx(uniform_loss(lengths))


def log(losses: list[float], every: int = 50) -> list[dict]:
    return [{"step": every * (1 + i), "loss": loss} for i, loss in enumerate(losses)]


def test_divergence_is_distinguished_from_a_slow_start():
    uniform = math.log(180)
    assert detect_divergence([], 0, 1000, uniform) is None
    assert detect_divergence([{"step": 9, "eval_loss": 9.0}], 0, 1000, uniform) is None
    assert "nan at step 100" in detect_divergence(log([5.0, math.nan]), 100, 1000, uniform)
    assert detect_divergence(log([5.2] * 9), 400, 2000, uniform) is None, "within the warm-up, and soon after it"
    assert "100 steps after the warm-up" in detect_divergence(log([5.2] * 10), 400, 2000, uniform)
    assert detect_divergence(log([5.2] * 8 + [4.5, 4.0]), 400, 2000, uniform) is None
    assert "uniform guess (5.19)" in detect_divergence(log([5.2, 4.0, 2.0] + [5.19] * 9), 0, 2000, uniform), (
        "it fell back"
    )
    assert detect_divergence(log([5.2] * 9), 0, 20_000, uniform) is None, "a long run has more time"


def break_at(monkeypatch, number: int, change) -> None:
    """Change the loss of one training step of ``QATrainer``, counted from 1."""
    original, calls = QATrainer.compute_loss, []

    def compute_loss(trainer, model, inputs, *args, **kwargs):
        calls.append(len(inputs["input_ids"]))
        loss = original(trainer, model, inputs, *args, **kwargs)
        return change(loss, calls) if len(calls) == number else loss

    monkeypatch.setattr(QATrainer, "compute_loss", compute_loss)


@pytest.mark.parametrize("logging_steps", [1, 500])
def test_a_diverged_run_is_stopped_and_its_best_checkpoint_kept(
    tiny_data, tiny_model, tmp_path, monkeypatch, logging_steps
):
    break_at(monkeypatch, 7, lambda loss, calls: loss * math.nan)
    more = ("--save_strategy", "epoch", "--eval_strategy", "epoch", "--load_best_model_at_end", "true")
    with pytest.raises(UserError, match=r"training has failed: .*checkpoint-3, is kept\. Try"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *more, "--logging_steps", logging_steps)
    assert [path.name for path in (tmp_path / "run").glob("*-*")] == ["checkpoint-3"]
    assert not (tmp_path / "run/model.safetensors").exists()


def test_split_keeps_every_window():
    batch = collate([3, 4, 5, 6, 7])
    for parts in (2, 3, 4, 8):
        pieces = list(split(batch, parts))
        assert len(pieces) <= parts
        assert torch.cat([piece["input_ids"] for piece in pieces]).equal(batch["input_ids"])


def losses(folder) -> list[float]:
    history = read(folder / "checkpoint-10/trainer_state.json")["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_step_is_repeated_in_smaller_micro_batches_when_out_of_memory(
    tiny_data, tiny_model, tmp_path, monkeypatch, capsys
):
    """Two batches of 3 per step, the last one smaller; the fourth does not fit, nor does half of the fifth."""
    from safetensors.torch import load_file

    def out_of_memory(loss, calls):
        raise torch.OutOfMemoryError("simulated")

    more = ("--per_device_train_batch_size", 3, "--gradient_accumulation_steps", 2, "--logging_steps", 1)
    more += (
        "--save_strategy",
        "steps",
        "--save_steps",
        10,
        "--max_steps",
        10,
        "--optim",
        "sgd",
        "--max_eval_samples",
        2,
    )
    more += ("--load_best_model_at_end", "false")
    train_tiny(tiny_data, tiny_model, tmp_path / "plain", *more)
    capsys.readouterr()
    sizes = []
    with monkeypatch.context() as patch:
        break_at(patch, 4, out_of_memory)
        original = QATrainer.compute_loss

        def watch(trainer, model, inputs, *args, **kwargs):
            sizes.append(len(inputs["input_ids"]))
            return original(trainer, model, inputs, *args, **kwargs)

        patch.setattr(QATrainer, "compute_loss", watch)
        train_tiny(tiny_data, tiny_model, tmp_path / "halved", *more)
    assert sizes[:10] == [3, 3, 3, 3, 2, 1, 2, 1, 2, 1], "both batches of the second step again, in parts"
    assert capsys.readouterr().err.count("out of memory; the step is repeated") == 1
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "halved"), abs=1e-5)
    ours, theirs = (load_file(tmp_path / name / "checkpoint-10/model.safetensors") for name in ("halved", "plain"))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)


def test_evaluation_of_one_window_out_of_memory_is_a_one_line_error(tiny_data, tiny_model, tmp_path, monkeypatch):
    def predict_windows(trainer, model, batch):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(QATrainer, "predict_windows", predict_windows)
    with pytest.raises(UserError, match=r"evaluation runs out of memory with one window of \d+ tokens: lower"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run")


def test_cuda_graphs_require_one_accumulation_step(tiny_data, tiny_model, tmp_path):
    mode = ("--torch_compile_mode", "reduce-overhead", "--gradient_accumulation_steps", 2)
    with pytest.raises(UserError, match="reduce-overhead needs gradient_accumulation_steps: 1"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *mode)


def test_training_out_of_memory_is_a_one_line_error(tiny_data, tiny_model, tmp_path, monkeypatch):
    def compute_loss(*args, **kwargs):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(QATrainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match=r"out of memory: --gpu_memory_gb auto finds .*; rerun the same command"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run")


def test_activation_checkpointing_is_an_option_of_the_command(tiny_data, tiny_model, tmp_path):
    from safetensors.torch import load_file

    more = ("--save_strategy", "no", "--eval_strategy", "no", "--max_steps", 3, "--max_eval_samples", 2)
    more += (
        "--load_best_model_at_end",
        "false",
        "--optim",
        "sgd",
    )  # Adam would amplify gradients that are rounding noise
    train_tiny(tiny_data, tiny_model, tmp_path / "plain", *more, "--fused_gelu", "false")
    train_tiny(tiny_data, tiny_model, tmp_path / "small", *more, "--activation_checkpointing", "true")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "plain"))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("small", "plain")]
    assert configs[0] == configs[1] and configs[0]["hidden_act"] == "gelu_new"


@pytest.mark.slow
def test_the_benchmark_runs(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    import datasets

    from benchmarks import train_speed

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    argv = ["--model_dir", tiny_model, "--validation_file", tiny_data / "dev.json.gz", "--output_dir", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", ["train_speed.py", *map(str, argv), "--rounds", "2"])
    train_speed.main()
    results = read(tmp_path / "out/results.json")
    rows = {row["name"]: row for row in results["variants"]}
    assert rows["baseline"]["speedup"] == 1 and rows["all together"]["speedup"] == results["speedup"] > 1
    assert all(row["examples_per_second"] > 0 and row["rounds"] == 2 for row in rows.values())
    assert rows["fused gelu"]["planned_gib"] < rows["baseline"]["planned_gib"]
    assert "| all together |" in capsys.readouterr().out

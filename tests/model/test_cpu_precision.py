"""Whether a processor computes in bf16: what torch says of it, confirmed by timing, kept and obeyed."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.processors import keep_speed
from transformers import AlbertConfig, AlbertForQuestionAnswering, BertConfig, BertForQuestionAnswering

from qa.model import cpu_precision
from qa.model.cpu_bf16 import adapt_to_cpu, matmul_attention
from qa.model.cpu_precision import choose_cpu_precision, has_bf16
from qa.model.device import answering_precision, device_precision, fit_to_device
from qa.model.optimizations import compute_heads_in_fp32, keep_weights_in, prepare_model
from qa.options.training_arguments import TrainingOptions

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A function that sets what torch says of the processor, and the seconds that its products take."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(cpu_precision, "speeds_file", lambda: tmp_path / "speeds.json")

    def describe(capabilities: dict, mkldnn: bool, fp32: float = 1.0, bf16: float = 1.0) -> list:
        timed: list[torch.dtype] = []

        def seconds(dtype: torch.dtype) -> float:
            timed.append(dtype)
            return {torch.float32: fp32, torch.bfloat16: bf16}[dtype]

        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn)
        monkeypatch.setattr(cpu_precision, "product_seconds", seconds)
        cpu_precision.bf16_speed.cache_clear()
        return timed

    yield describe
    cpu_precision.bf16_speed.cache_clear()


AMX = {"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}
AVX512 = {"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
ARM = {"neon": True, "bf16": True, "sve": True}


@pytest.mark.parametrize(
    ("capabilities", "mkldnn", "bf16_seconds", "precision", "reason"),
    [
        (AMX, True, 0.2, "bf16", "5.0 times as fast as fp32 on this processor"),
        (ARM, True, 0.5, "bf16", "2.0 times as fast as fp32 on this processor"),
        ({"avx2": True}, False, 155.0, "fp32", "as this processor has no bf16 arithmetic"),
        (AVX512, True, 2.0, "fp32", "as this processor has no bf16 arithmetic"),  # where it is emulated
        (AMX, False, 0.2, "fp32", "as this processor has no bf16 arithmetic"),  # a library without the kernels
        (AMX, True, 155.0, "fp32", "as bf16 is 155.0 times slower than fp32 on this processor"),  # timing says no
        (AMX, True, 0.95, "fp32", "as bf16 is 1.1 times as fast as fp32 on this processor"),
        ({}, True, 0.1, "fp32", "as this processor has no bf16 arithmetic"),
    ],
)
def test_the_faster_precision_is_chosen(processor, capabilities, mkldnn, bf16_seconds, precision, reason):
    timed = processor(capabilities, mkldnn, bf16=bf16_seconds)
    assert choose_cpu_precision() == (precision, reason)
    assert len(timed) == (0 if "no bf16" in reason else 2), "only a yes is timed"


def test_what_torch_says_of_this_processor_agrees_with_the_products():
    """On both kinds of processor: where there is bf16 arithmetic products are faster in it, elsewhere slower."""
    speed = cpu_precision.measure_bf16_speed()
    assert speed > cpu_precision.PAYS if has_bf16() else speed < 1


def test_the_speed_is_measured_once(processor, tmp_path):
    timed = processor(AMX, True, bf16=0.25)
    assert choose_cpu_precision()[0] == choose_cpu_precision()[0] == "bf16" and len(timed) == 2
    cpu_precision.bf16_speed.cache_clear()  # as in the next process
    assert choose_cpu_precision()[0] == "bf16" and len(timed) == 2
    assert json.loads((tmp_path / "speeds.json").read_text()) == {cpu_precision.kept_name(): 4.0}
    timed = processor({}, False, bf16=0.25)
    cpu_precision.bf16_speed()
    assert len(timed) == 2, "another processor under the same name"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"x": "fast"}', '{"x": null}'])
def test_a_damaged_file_is_measured_again(processor, tmp_path, content):
    (tmp_path / "speeds.json").write_text(content)
    processor(AMX, True, bf16=0.5)
    assert choose_cpu_precision()[0] == "bf16"


def test_a_folder_that_cannot_be_written_costs_only_the_time(processor, tmp_path, monkeypatch):
    processor(AMX, True, bf16=0.5)
    monkeypatch.setattr(cpu_precision, "speeds_file", lambda: tmp_path / "file" / "speeds.json")
    (tmp_path / "file").write_text("not a folder")
    assert choose_cpu_precision()[0] == "bf16"


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="x", report_to="none", **more)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "precision: bf16, 4.0 times as fast as fp32 on this processor\n"),
        ({"precision": "fp32"}, "precision: fp32, as asked for\n"),
        ({"precision": "bf16"}, "precision: bf16, 4.0 times as fast as fp32 on this processor\n"),
        ({"bf16": True}, "precision: bf16, 4.0 times as fast as fp32 on this processor (bf16 is for GPUs)\n"),
        ({"fp16": True}, "precision: bf16, 4.0 times as fast as fp32 on this processor (fp16 is for GPUs)\n"),
        ({"precision": "fp16"}, "precision: bf16, 4.0 times as fast as fp32 on this processor (fp16 is for GPUs)\n"),
    ],
)
def test_one_line_says_what_was_chosen_and_why(processor, capsys, given, line):
    processor(AMX, True, bf16=0.25)
    args = options(**given)
    precision = device_precision(args)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (line, "") and line.split()[1] == f"{precision},"
    used = fit_to_device(args, precision)
    assert (used.bf16, used.fp16) == (precision == "bf16", False)
    assert used.mixed_precision == ("bf16" if precision == "bf16" else "no")


def test_bf16_where_it_is_emulated_is_allowed_with_a_warning(processor, capsys):
    processor({"avx2": True}, False, bf16=155.0)
    assert device_precision(options()) == device_precision(options(fp16=True)) == "fp32"
    assert capsys.readouterr().err == ""
    assert device_precision(options(precision="bf16")) == "bf16"
    warning = "warning: precision bf16 is 155.0 times slower than fp32 on this processor: --precision auto"
    assert capsys.readouterr().err.startswith(warning)
    assert answering_precision("bf16", CPU) == "bf16" and warning in capsys.readouterr().err
    assert answering_precision("auto", CPU) == "fp32" and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kept", "capabilities", "precision"),
    [("bf16", AMX, "bf16"), ("fp32", AMX, "fp32"), ("bf16", {}, "fp32"), ("fp16", AMX, "fp32")],
)
def test_timing_never_overrides_what_a_checkpoint_was_computed_in(processor, capsys, kept, capabilities, precision):
    timed = processor(capabilities, True, bf16=0.25 if kept == "fp32" else 100.0)
    assert device_precision(options(), kept) == precision and not timed
    printed = capsys.readouterr()
    assert printed.out == f"precision: {precision}, as in the checkpoint\n" or kept != precision
    lacks = f"note: the checkpoint was computed in {kept}, which this device lacks: continuing in fp32\n"
    assert printed.err == ("" if kept == precision else lacks)


def small() -> AlbertForQuestionAnswering:
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=50, embedding_size=16, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, hidden_act="gelu_new", attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return AlbertForQuestionAnswering(config).eval()


def batch(rows: int = 3, length: int = 12) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_heads_compute_in_fp32():
    model, inputs = small(), batch()
    compute_heads_in_fp32(model)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, output = model.albert(**inputs)[0], model(**inputs)
    logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    expected = hidden.float() @ model.qa_outputs.weight.T + model.qa_outputs.bias
    assert logits.dtype == torch.float32 and torch.allclose(logits, expected, atol=1e-6)
    assert (logits != logits.to(torch.bfloat16).float()).float().mean() > 0.9, "not 8 bits of mantissa"
    assert set(model.state_dict()) == set(small().state_dict())


@torch.no_grad()
def test_in_fp32_heads_and_attention_change_nothing():
    plain, model, inputs = small(), small(), batch()
    prepare_model(plain)
    plain.qa_outputs.__class__ = torch.nn.Linear
    prepare_model(model)
    assert torch.equal(plain(**inputs).start_logits, model(**inputs).start_logits)


@torch.no_grad()
def test_weights_kept_in_bf16_give_the_logits_of_autocast():
    model, kept, inputs = small(), small(), batch()
    for each in (model, kept):
        compute_heads_in_fp32(each)
    keep_weights_in(kept, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(**inputs).end_logits, kept(**inputs).end_logits)
    assert kept.qa_outputs.weight.dtype == torch.float32


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_by_products_is_that_of_the_fused_kernel(scaling):
    """In fp32, output and gradients are those of torch's fused attention; padded keys have no weight."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(2, 3, 7, 4, generator=generator.manual_seed(n)) for n in range(3)] for _ in "12")
    for each in (*ours, *theirs):
        each.requires_grad_()
    mask = torch.zeros(2, 1, 1, 7)
    mask[1, ..., 4:] = torch.finfo(torch.float32).min
    found, _ = matmul_attention(SimpleNamespace(), *ours, mask, scaling=scaling)
    fused = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=scaling)
    assert torch.allclose(found, fused.transpose(1, 2), atol=1e-6)
    weights = torch.randn(found.shape, generator=generator)
    (found * weights).sum().backward()
    (fused.transpose(1, 2) * weights).sum().backward()
    assert all(torch.allclose(one.grad, other.grad, atol=1e-5) for one, other in zip(ours, theirs, strict=True))
    assert ours[2].grad[1, :, 4:].abs().max() == 0 and ours[2].grad[1, :, :4].abs().min() > 0


def test_attention_by_products_is_used_for_gradients_only(monkeypatch):
    model = small()
    prepare_model(model)
    adapt_to_cpu(model, "bf16", CPU)
    products: list[torch.dtype] = []
    original = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args, **kw: products.append(args[1].dtype) or original(*args, **kw))
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(**batch()).start_logits
        with torch.no_grad():
            evaluated = model(**batch()).start_logits
    assert products == [torch.bfloat16] * 3, "one for each layer, in training"
    assert torch.allclose(trained, evaluated, atol=0.02)


def test_layers_pass_on_bf16_in_evaluation_only():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForQuestionAnswering(BertConfig(vocab_size=50, **sizes)).eval()
    prepare_model(model)
    with torch.no_grad():
        expected = model(**batch()).start_logits
    adapt_to_cpu(model, "bf16", CPU)
    passed_on: list[torch.dtype] = []
    model.bert.encoder.layer[1].register_forward_pre_hook(lambda layer, inputs: passed_on.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch())
        with torch.no_grad():
            found = model(**batch()).start_logits
    with torch.no_grad():
        assert torch.equal(model(**batch()).start_logits, expected), "without autocast as before"
    assert passed_on == [torch.float32, torch.bfloat16, torch.float32]
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=0.02)


def test_this_processor_is_said_to_compute_in_fp32_in_all_tests():
    assert choose_cpu_precision()[0] == "fp32"
    keep_speed(9.0)
    try:
        assert choose_cpu_precision()[0] == ("bf16" if has_bf16() else "fp32")
    finally:
        keep_speed(1.0)

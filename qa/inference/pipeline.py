"""``pipeline("question-answering")`` with the arguments that it had before transformers 5.3 removed it."""

import os

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qa.inference.answerer import QuestionAnswerer, split_settings
from qa.model.cpu_precision import single_threaded
from qa.model.optimizations import set_attention, use_padding_mask
from qa.model.tokenizer import load_tokenizer
from qa.options.arguments import ModelArguments
from qa.options.saved import saved_settings
from qa.runtime.errors import UserError

TASK = "question-answering"
OLD_DEFAULT = "distilbert/distilbert-base-cased-distilled-squad"
LOAD_IT = "load the model yourself, and pass model=MODEL and tokenizer=TOKENIZER"

# Arguments of the removed pipeline that change nothing here: the values that are accepted, and the advice for others.
FIXED = {
    "framework": ((None, "pt"), "models run in PyTorch"),
    "use_fast": ((None, True), "only fast tokenizers give the positions of answers"),
    "trust_remote_code": ((None, False), "no code from a repository is ever run"),
    "token": ((None, True), "log in once with `hf auth login`, or set the environment variable HF_TOKEN"),
    "use_auth_token": ((None, True), "log in once with `hf auth login`, or set the environment variable HF_TOKEN"),
    "use_safetensors": ((None, True), "weights are never read from a pickle"),
    "low_cpu_mem_usage": ((None, True, False), "it has no effect"),
    "feature_extractor": ((None,), "questions about text need none"),
    "image_processor": ((None,), "questions about text need none"),
    "processor": ((None,), "questions about text need none"),
    "modelcard": ((None,), "it has no effect"),
    "pipeline_class": ((None,), "there is one class, QuestionAnswerer"),
}


def pipeline(
    task: str | None = TASK,
    model: str | os.PathLike | PreTrainedModel | None = None,
    tokenizer: str | tuple | PreTrainedTokenizerBase | None = None,
    **options,
) -> QuestionAnswerer:
    """Return a ``QuestionAnswerer``, as ``transformers.pipeline("question-answering", ...)`` did before release 5.3.

    Args:
        model: a folder, a Hub id, or a loaded model, which needs its ``tokenizer``.
        tokenizer: a folder, a Hub id, or a loaded fast tokenizer, if not the model's.
        options: ``device`` or ``device_map``, ``dtype``, ``revision``, ``model_kwargs``, and all that
            ``QuestionAnswerer.from_pretrained`` takes. docs/pipeline.md lists every argument of the old pipeline.

    Raises:
        UserError: a ``ValueError``, of another task, no model, or an argument that is not supported.
    """
    if task not in (None, TASK):
        raise UserError(f"task {task!r} is not supported: only {TASK!r}")
    if model is None:
        raise UserError(f"no model given: pipeline({TASK!r}, model='my_qa_model'); it used to be {OLD_DEFAULT!r}")
    options |= options.pop("model_kwargs", None) or {}
    check_fixed(options)
    options = {name: value for name, value in options.items() if name not in FIXED}
    check_config(options.pop("config", None), model)
    precision = options.pop("precision", None) or "fp32"
    dtype, attention = choose_dtype(options), options.pop("attn_implementation", None)
    device = choose_device(options.pop("device", None), options.pop("device_map", None))
    names = {"model_revision": options.pop("revision", None) or "main", "cache_dir": options.pop("cache_dir", None)}
    tokenizer = tokenizer[0] if isinstance(tokenizer, tuple) else tokenizer
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(ModelArguments(tokenizer_name=str(tokenizer), **names))
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"tokenizer is a {type(tokenizer).__name__}: only a fast tokenizer gives the positions of answers"
        )
    if isinstance(model, (str, os.PathLike)):
        source = ModelArguments(model_name_or_path=str(model), **names)
        tokenizer = tokenizer or load_tokenizer(source)
        saved = saved_settings(source)
        settings, options = split_settings(fill_lengths(options, tokenizer, saved), saved)
        answerer = QuestionAnswerer.load(source, settings, device, tokenizer, precision, **options)
    elif tokenizer is None:
        raise UserError("a loaded model needs its tokenizer: pipeline(task, model=model, tokenizer=tokenizer)")
    else:
        settings, options = split_settings(fill_lengths(options, tokenizer))
        answerer = QuestionAnswerer(model, tokenizer, settings, device, precision, **options)
    with single_threaded():  # as in ``QuestionAnswerer.load``
        adapt(answerer.model, dtype, attention)
    return answerer


def fill_lengths(options: dict, tokenizer: PreTrainedTokenizerFast, saved: str | None = None) -> dict:
    """Return the options with the default window of the old pipeline, unless one is given or saved with the model."""
    if saved or options.get("max_seq_len") or options.get("max_seq_length"):
        return options
    length = min(tokenizer.model_max_length, 384)
    stride = {"doc_stride": min(length // 2, 128)} if length < 384 and options.get("doc_stride") is None else {}
    return {**options, "max_seq_length": length, **stride}


def check_fixed(options: dict) -> None:
    """Raise UserError for arguments of the old pipeline with a value that has no meaning here."""
    for name, (accepted, advice) in FIXED.items():
        value = options.get(name)
        if not any(value is each for each in accepted) and value not in [x for x in accepted if isinstance(x, str)]:
            hidden = "" if "token" in name else f"={value!r:.40}"
            raise UserError(f"{name}{hidden} is not supported: {advice}; leave it out")
    for name in ("load_in_8bit", "load_in_4bit", "quantization_config", "max_memory", "offload_folder", "subfolder"):
        if options.pop(name, None):
            raise UserError(f"{name} is not supported: {LOAD_IT}")


def check_config(config, model) -> None:
    """Raise UserError unless the configuration is that of the model, which is used in any case."""
    if config is None or config is getattr(model, "config", None):
        return
    if not (isinstance(config, (str, os.PathLike)) and str(config) == str(model)):
        raise UserError(f"config is not supported: a model is loaded with its own; to use another, {LOAD_IT}")


def choose_dtype(options: dict) -> torch.dtype | None:
    """Return the floating-point type that ``dtype`` or ``torch_dtype`` names, removed from ``options``; None: fp32."""
    given = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
    value = given[0] if given[0] is not None else given[1]
    if value is None or value == "auto":
        return None
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype {value!r:.40} is not one of float32, float16 and bfloat16")
    return dtype


def choose_device(device, device_map) -> str | int | torch.device | None:
    """Return the device: ``device``, or the only one of ``device_map``; None for a GPU if available.

    Raises:
        UserError: ``device_map`` has several.
    """
    if isinstance(device_map, dict) and len(set(device_map.values())) == 1:
        device_map = next(iter(device_map.values()))
    if isinstance(device_map, dict) or device_map in ("balanced", "balanced_low_0", "sequential"):
        raise UserError("device_map: a model runs on one device; write device='cuda:0'")
    return device if device is not None or device_map == "auto" else device_map


def adapt(model: PreTrainedModel, dtype: torch.dtype | None, attention: str | None) -> None:
    """Convert the model to ``dtype``, and choose the implementation of attention, where these are given."""
    if dtype is not None:
        torch.nn.Module.to(model, dtype)
    set_attention(model, attention)
    use_padding_mask(model)

"""The precision that a device supports, and options adapted to it."""

import dataclasses

import torch
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import ParallelMode
from transformers.utils import is_torch_tf32_available

from qa.model.cpu_precision import bf16_speed, choose_cpu_precision, describe_speed, has_bf16
from qa.options.levels import stated_precision
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn, wrap

AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}  # types of matrix products


def wanted_precision(args: TrainingOptions, bf16_supported: bool) -> str:
    """Return ``fp32``, ``fp16`` or ``bf16``, as it would be on a GPU.

    Raises:
        UserError: ``precision`` and ``fp16`` or ``bf16`` contradict each other.
    """
    return stated_precision(vars(args)) or ("bf16" if bf16_supported else "fp16")


def bf16_supported() -> bool:
    """Return whether the GPU has bf16 arithmetic, without emulation; True without a GPU, as recent ones have it."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def uses_tf32(args: TrainingOptions) -> bool:
    """Return whether fp32 matrix products may use TF32: on a GPU, unless the option forbids it."""
    return args.device.type == "cuda" and args.tf32 is not False


def device_precision(args: TrainingOptions, kept: str | None = None) -> str:
    """Return the precision of matrix products on this device: ``fp32``, ``fp16`` or ``bf16``.

    On a CPU ``fp16: true`` and ``bf16: true``, which recipes have for GPUs, mean the faster precision, as ``auto``
    does. Prints a line on a CPU, and where the precision is not the one that was asked for or kept.

    Args:
        kept: the precision of the checkpoint to resume from, None if there is none or the options ask for another.
    """
    if args.device.type == "cuda":
        if args.tf32 and not is_torch_tf32_available():
            print("tf32 is not used: this GPU does not support it")
        wanted = wanted_precision(args, bf16_supported())
        precision = continued(kept, {"fp16", "bf16"} if bf16_supported() else {"fp16", wanted})
        if precision and precision != wanted:
            print(f"precision: {precision}, as in the checkpoint")
        warn_of_emulation(precision or wanted)
        return precision or wanted
    if args.device.type != "cpu":
        continued(kept, set())
        print(f"precision: fp32, as no other has been tried on {args.device.type.upper()}")
        return "fp32"
    precision, reason = None, "as in the checkpoint"
    if args.precision != "bf16":  # asked for, it is used even where it is emulated
        precision = continued(kept, {"bf16"} if has_bf16() else set())
    if not precision:
        precision, reason = cpu_precision(args.precision)
    print(wrap(f"precision: {precision}, {reason}{unused_options(args)}", 4))
    return precision


def cpu_precision(asked: str) -> tuple[str, str]:
    """Return the precision on a CPU, and why.

    Args:
        asked: the option; fp16, which CPUs do not train in, is as auto.
    """
    if asked == "fp32":
        return "fp32", "as asked for"
    if asked != "bf16":
        return choose_cpu_precision()
    speed = bf16_speed()
    if speed < 1:
        warn(f"warning: precision bf16 is {describe_speed(speed)}: --precision auto computes in fp32")
    return "bf16", describe_speed(speed)


def answering_precision(asked: str, device: torch.device) -> str:
    """Return the precision in which a model answers questions on this device; ``asked`` is as for ``train.py``."""
    if device.type == "cpu":
        if asked == "fp16":
            warn("note: fp16 needs a GPU: answering in the faster of bf16 and fp32")
        return cpu_precision(asked)[0]
    if device.type != "cuda":
        if asked in ("fp16", "bf16"):
            warn(f"note: answering in fp32, as no other precision has been tried on {device.type.upper()}")
        return "fp32"
    warn_of_emulation(asked)
    return ("bf16" if bf16_supported() else "fp16") if asked == "auto" else asked


def warn_of_emulation(precision: str) -> None:
    """Warn of bf16 on a GPU that has no arithmetic for it, nor a fused attention."""
    if precision == "bf16" and not bf16_supported():
        what = "slow, and attention needs more memory than planned"
        warn(f"warning: this GPU has no bf16 arithmetic; emulated, it is {what}: --precision fp16 is faster")


def continued(kept: str | None, half: set[str]) -> str | None:
    """Return the precision that a resumed run continues in; fp32, with a note, where this device lacks the kept one.

    Args:
        kept: None if none is. half: the precisions, besides fp32, that the device has.
    """
    if kept in {None, "fp32"} | half:
        return kept
    warn(f"note: the checkpoint was computed in {kept}, which this device lacks: continuing in fp32")
    return "fp32"


def unused_options(args: TrainingOptions) -> str:
    """Return a remark on the options that have no effect on a CPU, empty if there are none."""
    unused = {"fp16": args.fp16 or args.precision == "fp16", "bf16": args.bf16 and args.precision != "bf16"}
    unused |= {name: bool(getattr(args, name)) for name in ("fp16_full_eval", "bf16_full_eval", "tf32")}
    names = [name for name, is_asked in unused.items() if is_asked]
    return f" ({' and '.join(names)} {'is' if len(names) == 1 else 'are'} for GPUs)" if names else ""


def fit_to_device(args: TrainingOptions, precision: str) -> TrainingOptions:
    """Return the options that compute in ``precision`` on this device; without a GPU no memory is pinned."""
    args = dataclasses.replace(args, fp16=precision == "fp16", bf16=precision == "bf16")
    if args.device.type != "cuda":
        return dataclasses.replace(args, dataloader_pin_memory=False, fp16_full_eval=False, bf16_full_eval=False)
    overlapped = args.dataloader_pin_memory  # copies overlap with computation
    config = args.accelerator_config
    assert isinstance(config, AcceleratorConfig), "TrainingArguments has parsed it"
    loading = dataclasses.replace(config, non_blocking=overlapped)
    return dataclasses.replace(args, accelerator_config=loading)


def note_other_gpus(args: TrainingOptions) -> None:
    """Print which of several visible GPUs a single process uses, and how to use all."""
    if args.device.type != "cuda" or args.parallel_mode == ParallelMode.DISTRIBUTED:
        return
    if (count := torch.cuda.device_count()) > 1:
        chosen = f"the first of {count} GPUs is used ({torch.cuda.get_device_name(args.device)})"
        others = f"CUDA_VISIBLE_DEVICES takes another, torchrun --nproc_per_node {count} all of them"
        warn(f"note: {chosen}; {others}")

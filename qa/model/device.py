"""The precision that a device supports, and options adapted to it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_tf32_available

from qa.options.levels import stated_precision
from qa.options.training_arguments import TrainingOptions

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


def device_precision(args: TrainingOptions) -> str:
    """Return the precision on this device: the wanted one on a GPU, else fp32, with a note if another was asked for."""
    precision = wanted_precision(args, bf16_supported())
    if args.device.type == "cuda":
        if args.tf32 and not is_torch_tf32_available():
            print("tf32 is not used: this GPU does not support it")
        return precision
    asked = {precision: stated_precision(vars(args)) in ("fp16", "bf16")}
    asked |= {name: bool(getattr(args, name)) for name in ("fp16_full_eval", "bf16_full_eval", "tf32")}
    if unused := [name for name, is_asked in asked.items() if is_asked]:
        reason = "use_cpu is set" if args.use_cpu else "no GPU found"
        needs = "needs" if len(unused) == 1 else "need"
        print(f"{reason}: computing in fp32 on the CPU ({' and '.join(unused)} {needs} a GPU)")
    return "fp32"


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


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute on one thread: a process that has used several cannot compute in a fork of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""What the device can do, and so the precision."""

import dataclasses

import torch

from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}  # what matrices are multiplied in


def wanted_precision(args: TrainingOptions, bf16_supported: bool) -> str:
    """``fp32``, ``fp16`` or ``bf16``, as it would be on a GPU.

    Raises:
        UserError: ``precision`` and ``fp16`` or ``bf16`` contradict each other.
    """
    flag = "fp16" if args.fp16 else "bf16" if args.bf16 else None
    asked = args.precision
    if flag and asked not in ("auto", flag):
        raise UserError(f"precision {asked} and {flag}: true exclude each other: give one of them")
    if asked != "auto":
        return asked
    return flag or ("bf16" if bf16_supported else "fp16")


def bf16_supported() -> bool:
    """Whether the GPU multiplies bf16 matrices itself; without a GPU, as a recent one would."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def fit_to_device(args: TrainingOptions) -> TrainingOptions:
    """The precision for this GPU, and TF32 for what is left in fp32; fp32 and plain memory where there is none."""
    precision = wanted_precision(args, bf16_supported())
    if args.device.type == "cuda":
        if args.tf32 is not False:
            torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
        args = dataclasses.replace(args, fp16=precision == "fp16", bf16=precision == "bf16")
        args.accelerator_config.non_blocking = args.dataloader_pin_memory  # copies do not wait for the GPU
        return args
    if args.fp16 or args.precision in ("fp16", "bf16"):
        print(f"no GPU found: computing in fp32 on the CPU ({precision} needs a GPU)")
    return dataclasses.replace(args, fp16=False, bf16=False, dataloader_pin_memory=False)

"""``TrainingArguments`` with our options: the only module here that needs torch and transformers."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

from qa.options.option import require
from qa.options.table import TABLE
from qa.options.training_fields import OurTrainingOptions
from qa.runtime.console import on_terminal


@dataclass
class TrainingOptions(OurTrainingOptions, TrainingArguments):
    """Every field of ``TrainingArguments``, and our own; without a GPU, what needs one may be set."""

    def __post_init__(self):
        if self.disable_tqdm is None and not on_terminal():
            self.disable_tqdm = True
        rule = "needs a package that is not installed: pip install deepspeed"
        require(not self.deepspeed or find_spec("deepspeed") is not None, "deepspeed", rule)
        usable = {"tf32": is_torch_tf32_available()}
        usable |= dict.fromkeys(("bf16", "bf16_full_eval"), self.use_cpu or is_torch_bf16_gpu_available())
        unused = {name: getattr(self, name) for name, is_usable in usable.items() if not is_usable}
        vars(self).update(dict.fromkeys(unused))  # TrainingArguments would refuse them
        super().__post_init__()
        vars(self).update(unused)
        if self.bf16:
            self.mixed_precision = "bf16"

    @property
    def n_gpu(self) -> int:
        """At most one GPU: a single process for several is slow, and would multiply the batch."""
        return min(super().n_gpu, 1)

    @property
    def folder(self) -> Path:
        """The output folder, which every command has."""
        return Path(self.output_dir or "")


def is_memory(value: str | None) -> bool:
    try:
        return value in (None, "auto") or 1 < float(value) < float("inf")
    except ValueError:
        return False


def check_training(args: TrainingOptions) -> None:
    """Raise UserError for invalid values that ``TrainingArguments`` accepts, and for unsupported options."""
    positive = ("learning_rate", "num_train_epochs", "adam_epsilon")
    for name in positive:
        value = getattr(args, name)
        require(0 < value < float("inf"), name, f"must be a finite number above 0, not {value}")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        require(getattr(args, name) >= 1, name, f"must be at least 1, not {getattr(args, name)}")
    for name in ("seed", "dataloader_num_workers"):
        require(getattr(args, name) >= 0, name, "must not be negative")
    require(args.max_steps != 0, "max_steps", "must be at least 1, or left out to train num_train_epochs")
    require(is_memory(args.gpu_memory_gb), "gpu_memory_gb", "must be auto or a number above 1")
    require(args.dropout is None or 0 <= args.dropout < 1, "dropout", "must be at least 0 and below 1")
    require(bool(args.output_dir), "output_dir", "must not be empty")
    require(0 <= args.recovery_minutes < float("inf"), "recovery_minutes", "must not be negative")
    plain, default = args.to_dict(), TrainingArguments("").to_dict()
    for name in default:
        if name in TABLE and (why := TABLE[name].refused):
            require(plain[name] == default[name], name, f"is not supported here, because {why}: leave it out")
    require(0 <= args.weight_decay < float("inf"), "weight_decay", "must not be negative")
    for name in ("adam_beta1", "adam_beta2"):
        require(0 <= getattr(args, name) < 1, name, "must be at least 0 and below 1")

"""What the options leave open: the values for this device, this data and this plan. The options are never changed."""

import dataclasses
from dataclasses import dataclass

from qa.model.device import fit_to_device
from qa.options.arguments import DataArguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import count, warn
from qa.runtime.distributed import divide_batch


@dataclass(frozen=True)
class Batches:
    """The batches of a run, as one process takes them; the names are those of the options.

    Attributes:
        per_device_train_batch_size: windows in a micro-batch.
        gradient_accumulation_steps: micro-batches in a step.
        per_device_eval_batch_size: windows in a batch of evaluation.
        activation_checkpointing: whether activations are recomputed in the backward pass.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    per_device_eval_batch_size: int
    activation_checkpointing: bool

    @classmethod
    def from_args(cls, args: TrainingOptions) -> "Batches":
        """Return the requested batches."""
        return cls(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.per_device_eval_batch_size,
            bool(args.activation_checkpointing),
        )

    @property
    def step_size(self) -> int:
        """Return the number of windows in a step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def over(self, args: TrainingOptions) -> TrainingOptions:
        """Return the options with these batches."""
        return dataclasses.replace(args, **dataclasses.asdict(self))

    def shared(self, processes: int) -> "Batches":
        """Return the batches of each of several processes that share a step."""
        batch, accumulation = divide_batch(
            self.per_device_train_batch_size, self.gradient_accumulation_steps, processes
        )
        return dataclasses.replace(self, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)

    def as_alone(self, processes: int) -> "Batches":
        """Return the batches of one process that are equivalent to those of several.

        They differ only if a step cannot be shared equally; then it has more or fewer windows.
        """
        own = self.shared(processes)
        if own.step_size * processes == self.step_size:
            return self
        return dataclasses.replace(own, gradient_accumulation_steps=own.gradient_accumulation_steps * processes)


@dataclass(frozen=True)
class ResolvedRun:
    """The values of a run that its options leave open.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``bf16``, of matrix products on this device.
        has_unanswerable: whether questions may have no answer, as in SQuAD 2.0.
        pad_to: tokens that every batch is padded to; None for its longest window.
        batches: as requested or as planned.
    """

    precision: str
    has_unanswerable: bool
    pad_to: int | None
    batches: Batches

    @classmethod
    def from_options(
        cls, data_args: DataArguments, args: TrainingOptions, precision: str, has_unanswerable: bool
    ) -> "ResolvedRun":
        """Return a run with the requested batches."""
        pad_to = data_args.max_seq_length if data_args.pad_to_max_length else None
        return cls(precision, has_unanswerable, pad_to, Batches.from_args(args))

    def over(self, args: TrainingOptions) -> TrainingOptions:
        """Return the options of this run in one process on this device."""
        return fit_to_device(self.batches.over(args), self.precision)

    def count_windows(self, args: TrainingOptions, windows: int) -> float:
        """Return how many windows are trained on in all epochs, of ``windows`` in the training split."""
        return args.max_steps * self.batches.step_size if args.max_steps > 0 else args.num_train_epochs * windows

    def record(self, processes: int) -> dict:
        """Return what is saved with checkpoints and results: precision and batches, by option name."""
        return {"precision": self.precision} | dataclasses.asdict(self.batches.as_alone(processes))


def trainer_arguments(args: TrainingOptions, resolved: ResolvedRun, **more) -> TrainingOptions:
    """Return the arguments for the Trainer of each of ``args.world_size`` processes.

    Args:
        more: fields that the command sets.
    """
    own = dataclasses.asdict(resolved.batches.shared(args.world_size))
    return dataclasses.replace(resolved.over(args), **own | {"push_to_hub": False} | more)


def warn_of_uneven_step(batches: Batches, processes: int) -> None:
    """Warn if the windows of a step cannot be shared equally by the processes."""
    alone = batches.as_alone(processes)
    if alone != batches:
        warn(
            f"note: {count(batches.step_size, 'window')} per step (per_device_train_batch_size"
            f" {batches.per_device_train_batch_size} x gradient_accumulation_steps"
            f" {batches.gradient_accumulation_steps}) cannot be shared equally by {processes} processes:"
            f" {alone.step_size} per step instead; results may differ slightly"
        )

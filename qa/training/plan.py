"""The plan of a run, and how it is printed."""

from dataclasses import dataclass

from qa.model.memory import GIB, Memory
from qa.runtime.console import count, table, wrap


@dataclass(frozen=True)
class Plan:
    """What a run will do and need.

    Attributes:
        windows: in the training data. tokens: in these windows.
        padding: padded tokens over real ones, minus one.
        batch_lengths: lengths that batches are padded to; empty if each is padded to its longest window.
        batch: micro-batch size on each device. accumulation: micro-batches in a step.
        length: tokens of the longest window.
        step, evaluation: peak memory; None if the model cannot be measured.
        usable: bytes that tensors may take; None if no limit is known.
    """

    windows: int
    tokens: int
    padding: float
    batch_lengths: tuple[int, ...]
    epochs: float
    steps: int
    batch: int
    accumulation: int
    devices: int
    recompute: bool
    length: int
    precision: str
    step: Memory | None
    evaluation: Memory | None
    evaluation_batch: int
    usable: float | None

    @property
    def effective_batch(self) -> int:
        return self.batch * self.accumulation * self.devices

    @property
    def peak(self) -> int:
        return max(each.total for each in (self.step, self.evaluation) if each)

    def summary(self) -> str:
        """Return the plan in a few lines."""
        line = f"plan: {count(self.windows, 'window')}, {count(self.tokens, 'token')}, {self.padding:.1%} padding;"
        line += f" {count(self.steps, 'step')} of {count(self.effective_batch, 'window')} ({describe_batch(self)}),"
        line += f" {self.precision}" + (", activation checkpointing" if self.recompute else "")
        if self.step is None:
            return wrap(line, 6)
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory_parts(self.step))
        return wrap(line, 6) + "\n" + wrap(f"      {gib(self.step.total)} peak memory: {parts}", 6)

    def details(self) -> str:
        """Return the plan as a table."""
        lengths = f", to {len(self.batch_lengths)} lengths" if len(self.batch_lengths) > 1 else ""
        mean, epochs = self.tokens / self.windows, "epoch" if self.epochs == 1 else "epochs"
        rows = [
            ("windows", f"{self.windows:,}"),
            ("tokens", f"{self.tokens:,}; mean {mean:.1f} per window, longest {self.length}"),
            ("padding", f"{self.padding:.1%}{lengths}"),
            ("steps", f"{self.steps:,} of {count(self.effective_batch, 'window')}, {self.epochs:g} {epochs}"),
            ("batch", describe_batch(self)),
            ("activations", "recomputed in the backward pass (checkpointing)" if self.recompute else "kept"),
            ("precision", self.precision),
        ]
        if self.step and self.evaluation:
            limit = f" of {gib(self.usable)} usable" if self.usable else ""
            rows.append(("peak memory", gib(self.step.total) + limit))
            rows += [(f"  {name}", gib(size)) for name, size in memory_parts(self.step)]
            rows.append(("evaluation", f"{gib(self.evaluation.total)}, batch size {self.evaluation_batch}"))
        return table(rows)


def describe_batch(plan: Plan) -> str:
    """Return how the windows of a step are divided into micro-batches."""
    text = f"micro-batch size {plan.batch}"
    text += f", {plan.accumulation} accumulation steps" if plan.accumulation > 1 else ""
    return text + (f", {plan.devices} devices" if plan.devices > 1 else "")


def memory_parts(memory: Memory) -> list[tuple[str, int]]:
    """Return what the memory is used for, with the bytes of each."""
    return [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer states", memory.optimizer),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
    ]


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"

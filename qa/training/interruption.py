"""How a signal stops a run: a checkpoint is saved first."""

import signal
from pathlib import Path

from qa.runtime.console import warn


class TrainingInterrupted(Exception):
    """Training was stopped by a signal, after saving a checkpoint."""

    def __init__(self, number: int, checkpoint: Path):
        super().__init__(f"stopped: checkpoint saved to {checkpoint}; rerun the same command to resume")
        self.status = 128 + number


class SignalHandler:
    """Context manager: record the first Ctrl-C or SIGTERM; the second one acts immediately."""

    def __init__(self):
        self.number: int | None = None

    def note(self, number: int, frame) -> None:
        if self.number is not None:
            self.restore()
            signal.raise_signal(number)
        else:
            self.number = number
            warn("stopping after this step to save a checkpoint; interrupt again to stop immediately")

    def __enter__(self) -> "SignalHandler":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self.restore()

"""How a signal stops a run: a checkpoint is saved first."""

import os
import signal
from pathlib import Path

from qa.runtime.console import warn

# Ctrl-C, the end of a batch job, a closed terminal or connection, and a batch system's notice before the end.
# Windows has the first two only.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class TrainingInterrupted(Exception):
    """Training was stopped by a signal, after saving a checkpoint."""

    def __init__(self, number: int, checkpoint: Path):
        super().__init__(f"stopped: checkpoint saved to {checkpoint}; rerun the same command to resume")
        self.status = 128 + number


class SignalHandler:
    """Context manager: record the first signal; a second Ctrl-C or SIGTERM acts immediately.

    SIGHUP stays ignored where it is, as under ``nohup``. It usually comes twice, from the system and from the shell.
    """

    def __init__(self):
        self.number: int | None = None

    def note(self, number: int, frame) -> None:
        if self.number is None:
            self.number = number
            if number == getattr(signal, "SIGHUP", None):
                self.discard_terminal_output()
            warn("saving a checkpoint after this step, then stopping; interrupt again to stop now")
        elif number in (signal.SIGINT, signal.SIGTERM):
            self.restore()
            signal.raise_signal(number)

    def discard_terminal_output(self) -> None:
        """Write what goes to the terminal to nowhere: it may be closed, and writing to it would raise an error."""
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self.terminals:
            os.dup2(null, descriptor)
        os.close(null)

    def __enter__(self) -> "SignalHandler":
        self.terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]  # once closed, it is none
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.note) for number in handled}
        return self

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self.restore()

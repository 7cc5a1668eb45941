"""Errors that a person can mend, and how every command reports them."""

import os
import signal
import sys
import time
from collections.abc import Callable

from tqdm.auto import tqdm

PATIENCE = 5  # seconds that other processes wait for the main one to report the same error


class UserError(Exception):
    """One line that says what is wrong, where, and what to do. Ends a command with exit status 2."""


def one_line(error: BaseException) -> str:
    """What another library's error says first, on one line."""
    text = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in str(error))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return type(error).__name__
    goes_on = lines[0].endswith(":") or (len(lines) > 1 and lines[1].startswith("- "))
    return (" ".join(lines) if goes_on else lines[0])[:300]


def rank() -> int:
    """Which of the processes that a launcher started this one is; 0 for the main process, or the only one."""
    return int(os.environ.get("RANK", 0)) if "WORLD_SIZE" in os.environ else 0


def say(message: str) -> None:
    """A line on stderr from the main process, after the progress bars, which would be drawn over it."""
    if rank():
        return
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(message, file=sys.stderr)


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's ``main``; a ``UserError`` becomes one line on stderr and exit status 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        if rank():  # an error of all processes is the main one's to say, and the launcher then ends this one
            time.sleep(PATIENCE)
            print(f"error in process {rank()}: {error}", file=sys.stderr)
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

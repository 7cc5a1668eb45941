"""Standard output and error of a command, which end it in one line where they cannot be written."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from qa.runtime.errors import writing_error

CLOSED_PIPE = 1  # exit status
STDOUT = Path("/dev/stdout")  # where the system has it, a link to what standard output is


class CheckedStream(io.TextIOWrapper):
    """A standard stream that passes the first error to ``failed``, and discards what is written after it.

    An OSError of ``print`` could not be told from one of a file that is written at the same time. What the encoding
    lacks, as in a file on Windows or a C locale, is escaped.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]):
        self.failed = failed
        lines, unbuffered = bool(stream.line_buffering), getattr(stream, "write_through", False)
        super().__init__(stream.buffer, stream.encoding, "backslashreplace", None, lines, unbuffered)

    def write(self, text: str) -> int:
        with self.checked():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self.checked():
            super().flush()

    def close(self) -> None:
        """Leave the stream open, which belongs to the process."""

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            try:
                self.failed(error)
            finally:
                with contextlib.suppress(OSError):  # a stream without a descriptor
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # also for what is still in the buffers


def stdout_failed(error: OSError) -> NoReturn:
    """End the command: silently if a pipe was closed, as by ``head``, else with a UserError."""
    if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
        sys.exit(CLOSED_PIPE)
    place = STDOUT.resolve()
    name = f"standard output ({place})" if STDOUT.exists() and place.exists() else "standard output"
    raise writing_error(place if place.is_file() else None, error, name) from None


def ignore(error: OSError) -> None:
    """Continue without a stream that nobody can read."""


@contextlib.contextmanager
def checked_streams() -> Iterator[None]:
    """Check what is written to stdout and stderr in the block; a closed stdin is empty in it."""
    streams = sys.stdin, sys.stdout, sys.stderr
    null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - in place of a closed stream, until the end
    sys.stdin = streams[0] or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - until the end
    sys.stdout = CheckedStream(streams[1] or null, stdout_failed)
    sys.stderr = CheckedStream(streams[2] or null, ignore)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams

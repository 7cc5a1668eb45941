"""Lines, tables and progress bars on the terminal."""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
WIDTH = 80  # columns of a terminal
INTERVAL = 60  # seconds between lines of progress where there is no bar


def process_rank() -> int:
    """Return this process's rank among those that a launcher started; 0 for the main process, or the only one."""
    return int(os.environ.get("RANK", 0)) if "WORLD_SIZE" in os.environ else 0


def on_terminal() -> bool:
    """Return whether progress bars can be drawn: stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_line(line: str) -> None:
    """Print a line to stdout above the progress bars."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def warn(message: str) -> None:
    """Print a line to stderr in the main process, above the progress bars."""
    if not process_rank():
        tqdm.write(message, file=sys.stderr)


@contextmanager
def closing_bars() -> Iterator[None]:
    """Close progress bars when the block ends, so that none is drawn again below what is printed next."""
    try:
        yield
    finally:
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def progress(items: Iterable[Item], total: int, noun: str) -> Iterator[Item]:
    """Yield the items: with a progress bar on a terminal, elsewhere with a line once a minute."""
    if on_terminal():
        yield from tqdm(items, total=total, unit=f" {noun}s", ncols=WIDTH - 1)
        return
    printed = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if time.monotonic() - printed >= INTERVAL:
            warn(f"{number:,} of {count(total, noun)}")
            printed = time.monotonic()


def count(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1: ``1 window``, ``8,000 windows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a time as hours and minutes, as minutes and seconds, or as seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def wrap(text: str, indent: int = 0, width: int = WIDTH) -> str:
    """Return text in lines of at most ``width`` columns, all but the first indented; words are never broken."""
    lines = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Return rows as text in two columns, the first as wide as its longest name, at most 80 columns in all.

    A ``Path`` is never wrapped, so that it can be copied.
    """
    indent = max(len(name) for name, _ in rows) + 4
    return "\n".join(f"  {name:<{indent - 2}}{cell(value, indent)}" for name, value in rows)


def cell(value: object, indent: int) -> str:
    """Return a value of a table, wrapped if it is longer than what its row has left."""
    text = str(value)
    return (
        text if isinstance(value, Path) or len(text) <= WIDTH - indent else wrap(" " * indent + text, indent).lstrip()
    )

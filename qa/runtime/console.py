"""Lines and tables on the terminal."""

import os
import sys
from collections.abc import Sequence

from tqdm.auto import tqdm


def process_rank() -> int:
    """Which of the processes that a launcher started this one is; 0 for the main process, or the only one."""
    return int(os.environ.get("RANK", 0)) if "WORLD_SIZE" in os.environ else 0


def warn(message: str) -> None:
    """A line on stderr from the main process, after the progress bars, which would be drawn over it."""
    if process_rank():
        return
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(message, file=sys.stderr)


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Two columns, the first as wide as its longest name."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)

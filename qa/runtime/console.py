"""Lines and tables on the terminal."""

import os
import sys
from collections.abc import Sequence

from tqdm.auto import tqdm


def process_rank() -> int:
    """Return this process's rank among those that a launcher started; 0 for the main process, or the only one."""
    return int(os.environ.get("RANK", 0)) if "WORLD_SIZE" in os.environ else 0


def warn(message: str) -> None:
    """Print a line to stderr in the main process, and close progress bars, which would overwrite it."""
    if process_rank():
        return
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(message, file=sys.stderr)


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Return rows as text in two columns, the first as wide as its longest name."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)

"""The existing file or folder that a mistyped path probably means."""

import contextlib
import difflib
from pathlib import Path

CUTOFF = 0.75  # least similarity, from 0 to 1, of the names


def nearest_path(path: str | Path) -> Path | None:
    """Return the existing path most like one that does not exist; None if nothing is like it.

    The first part that does not exist is corrected, and the rest is kept if that exists.
    """
    wanted = Path(path).expanduser()
    with contextlib.suppress(OSError):
        for parent in wanted.parents:
            if parent.is_dir():
                missing, *rest = wanted.relative_to(parent).parts
                names = [each.name for each in parent.iterdir()]
                for name in difflib.get_close_matches(missing, names, n=1, cutoff=CUTOFF):
                    found = parent / name
                    return found.joinpath(*rest) if found.joinpath(*rest).exists() else found
                return None
    return None


def did_you_mean(path: str | Path) -> str:
    """Return ``: did you mean X?`` for a path that does not exist; an empty string if nothing is like it."""
    nearest = nearest_path(path)
    return f": did you mean {nearest}?" if nearest else ""

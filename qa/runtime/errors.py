"""Errors that a user can fix, which every command reports in one line."""

import errno
import shutil
from pathlib import Path

# Errors of a path, whatever is free on its disk.
UNUSABLE = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


class UserError(ValueError):
    """An error whose message is one line: what is wrong, where, and what to do. A command exits with status 2.

    It is a ``ValueError`` for callers from Python. Where ``ValueError`` is caught around code that can raise this,
    ``except UserError: raise`` must come first.
    """


def one_line(error: BaseException) -> str:
    """Return the first line of another library's error message, without control characters, at most 300 long."""
    text = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in str(error))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return type(error).__name__
    continues = lines[0].endswith(":") or (len(lines) > 1 and lines[1].startswith("- "))
    return (" ".join(lines) if continues else lines[0])[:300]


def free_space(path: Path) -> str:
    """Return how much is free on the disk of a file or folder, which need not exist."""
    path = path.expanduser().absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return f"{shutil.disk_usage(existing).free / 2**30:.2f} GiB free on the disk"


def space_left(path: Path, error: BaseException) -> str:
    """Return the free space in parentheses, to follow an error; empty where the path itself cannot be used."""
    return "" if getattr(error, "errno", None) in UNUSABLE else f" ({free_space(path)})"


def writing_error(path: Path | None, error: BaseException, name: str = "", advice: str = "") -> UserError:
    """Return the error to report when a file could not be written; None as its path leaves out the free space."""
    reason = getattr(error, "strerror", None) or one_line(error)
    space = space_left(path, error) if path else ""
    return UserError(f"{name or path}: cannot be written: {reason}{space}{advice}")

"""Errors that a user can fix, which every command reports in one line."""


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

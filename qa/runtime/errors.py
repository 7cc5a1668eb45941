"""Errors that a person can mend, and how every command reports them."""


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

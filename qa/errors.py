"""Errors that a person can mend, and how every command reports them."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """One line that says what is wrong, where, and what to do. Ends a command with exit status 2."""


def one_line(error: BaseException) -> str:
    """The first line of another library's error that says something, without its decoration."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's ``main``; a ``UserError`` becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

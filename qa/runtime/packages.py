"""Report a package that is not installed in one line, with the command that installs it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType

from qa.runtime.errors import UserError

DISTRIBUTIONS = {"yaml": "pyyaml", "google": "protobuf", "PIL": "pillow", "sklearn": "scikit-learn"}  # by module


def explain_missing(error: BaseException) -> str | None:
    """Return what to install after a failed import; None if something else is wrong with it."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    if module == "qa" or find_spec(module) is not None:
        return None
    package = DISTRIBUTIONS.get(module, module)
    return (
        f"{package} is not installed: pip install {package}, or all that this project needs with"
        " pip install -r requirements.txt"
    )


@contextmanager
def missing_packages_as_errors() -> Iterator[None]:
    """Raise a UserError where the block lacks a package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if message := explain_missing(error):
            raise UserError(message) from None
        raise


def report_missing_packages() -> None:
    """Report packages that the imports of a command lack in one line, and exit with status 2.

    A command calls this before it imports anything that is not in the standard library.
    """
    sys.excepthook = report_exception


def report_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if message := explain_missing(error):
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    sys.__excepthook__(kind, error, trace)

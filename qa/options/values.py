"""Values of options as words: what a word stands for, wherever it is written."""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from qa.runtime.errors import UserError, one_line

FREE_TEXT = ("question", "context")  # all other text options may be paths


def boolean(text: str) -> bool:
    """Return the boolean that a word stands for. Raises ArgumentTypeError for other words."""
    if text.lower() in ("yes", "true", "t", "y", "1", "on"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")


def expand_home(text: str) -> str:
    """Return a value with its leading ``~/`` replaced: no shell does so in a file, or after ``--option=``."""
    return os.path.expanduser(text) if text.startswith("~/") else text


def value_parser(name: str, kind: type) -> Callable[[str], Any]:
    return expand_home if kind is str and name not in FREE_TEXT else kind


def check_json(name: str, value: Any) -> None:
    """Raise UserError for a text that starts like a JSON object and is none; transformers parses such texts."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            json.loads(value)
        except ValueError as error:
            raise UserError(f"{name}: not JSON: {one_line(error)}") from None

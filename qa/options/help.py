"""What ``--help`` and ``--help_all`` print, from the table of options."""

import dataclasses
import sys
import textwrap
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qa.options.option import Option, value_type
from qa.options.table import OTHERS, RUN, find_option
from qa.runtime.console import process_rank
from qa.runtime.process import run_command
from qa.runtime.streams import CLOSED_PIPE

HELP_FLAGS = {"-h", "--help", "--help_all", "--help-all"}
GROUPS = {  # of options that --help of each command shows
    command: groups.split("|")
    for command, groups in {
        "train": "model|data|windows|optimization|batches and memory|device|evaluation and checkpoints|output|Hub",
        "preprocess": "model|data|windows|answers|output",
        "evaluate_qa": "evaluation|model|data|windows|answers|device|output",
        "ask": "ask|model|answers",
        "publish": "publish",
    }.items()
}
WIDTH, INDENT = 80, 32  # columns of a line, and of the names


def print_help_if_asked(command: str, description: str, config: Path | None = None) -> None:
    """Print the common options of a command and exit if the command line has ``-h`` or ``--help``.

    Of several processes only the main one prints. A command calls this before it imports torch or transformers, which
    take seconds and are not needed for it.

    Args:
        config: the file that the command reads where ``--config`` names none; its values are shown as defaults.
    """
    if not {"-h", "--help"} & set(sys.argv[1:]):
        return
    if process_rank():
        sys.exit()
    rows = [row for row in (*OTHERS, *RUN) if row.common]
    try:
        run_command(lambda: print(common_help(command, description, rows, config)))
    except SystemExit as stop:
        sys.exit(0 if stop.code == CLOSED_PIPE else stop.code)  # a pager that was closed has shown enough
    sys.exit()


def common_help(command: str, description: str, rows: list[Option], config: Path | None = None) -> str:
    """Return the text of ``--help``: at most 60 lines of 80 columns."""
    lines, values = [description.strip(), ""], read_values(config)
    for group in GROUPS[command]:
        lines.append(f"{group}:")
        lines += [line for row in rows if row.group == group for line in option_lines(row, values, whole=False)]
    recipe = f" (default: {config.name})" if config else ""
    return "\n".join([*lines, "", f"--config FILE sets any of these{recipe}.", "--help_all shows every option."])


def print_all_options(kinds: Iterable[type], description: str | None, config: Path | str | None = None) -> None:
    """Print every option of some dataclasses, in groups, with type and default."""
    groups: dict[str, list[str]] = {}
    values = read_values(config)
    for kind in kinds:
        hints = get_type_hints(kind)
        for item in dataclasses.fields(kind):
            row = item.metadata.get("option") or find_option(item.name)
            if not item.init or row.instead:
                continue
            default = item.default if item.default is not dataclasses.MISSING else None
            refusal = row.refused and f"Not supported here, because {row.refused}."
            text = refusal or row.help or item.metadata.get("help", "")
            text = f"[{type_name(hints[item.name])}] {text.replace('%%', '%')}"
            row = dataclasses.replace(row, name=item.name, default=default, help=text)
            groups.setdefault(row.group, []).extend(option_lines(row, values, whole=True))
    lines = [(description or "").strip(), "", "--config FILE sets any of these.", ""]
    for group, its in groups.items():
        lines += [f"{group}:", *its, ""]
    print("\n".join(lines).strip())


def read_values(config: Path | str | None) -> dict[str, Any]:
    if config is None:
        return {}
    import yaml

    return yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}


def option_lines(row: Option, values: dict[str, Any], whole: bool) -> list[str]:
    """Return the name of an option, its help, or the first sentence of that, and its default."""
    text = " ".join(row.help.split()) if whole else row.help.split(". ")[0].removesuffix(".")
    default = values.get(row.name, row.default)
    if default is not None and default != "" and default != []:
        default = str(default).lower() if isinstance(default, bool) else getattr(default, "value", default)
        text += f" (default: {default})" if whole else f" ({default})"
    name = f"  --{row.name}"
    lines = textwrap.wrap(text, WIDTH - INDENT) or [""]
    head = [f"{name:<{INDENT}}{lines[0]}"] if len(name) < INDENT else [name, " " * INDENT + lines[0]]
    return head + [" " * INDENT + line for line in lines[1:]]


def type_name(hint) -> str:
    """Return what to write as the value of an option, such as ``int``, ``str ...`` or ``true|false``."""
    kind = value_type(hint)
    if kind is bool:
        return "true|false"
    if get_origin(kind) is list:
        return f"{get_args(kind)[0].__name__} ..."
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(each.value for each in kind)
    return kind.__name__

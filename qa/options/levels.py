"""Levels of options: a more specific one overrides a more general one, and no level may contradict itself.

The command line is above a configuration file, and that above the settings saved with a model.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from qa.options.table import TABLE, find_option
from qa.runtime.errors import UserError

PRECISIONS = ("fp16", "bf16")  # each has a flag of its name, besides the option ``precision``


def exclusive_pairs() -> list[tuple[str, str]]:
    return [(row.name, other) for row in TABLE.values() for other in row.excludes]


def check_level(values: Mapping[str, Any]) -> None:
    """Raise UserError if two options of one level contradict each other."""
    for one, other in exclusive_pairs():
        if one in values and other in values:
            raise UserError(f"{one} and {other} are mutually exclusive: give one of them")
    stated_precision(values)


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merge two levels: ``upper`` overrides options of the same name, and drops those that it contradicts."""
    replaced = {other for pair in exclusive_pairs() for one, other in (pair, pair[::-1]) if one in upper}
    if names_data("train", upper):
        replaced |= {row.name for row in TABLE.values() if row.belongs_to == "sources"}
    if stated_precision(upper):
        replaced |= {"precision", *PRECISIONS}
    elif upper.get(str(lower.get("precision"))) is False:  # --fp16 false, and precision: fp16 in the file
        lower = lower | {"precision": "fp32"}
    return {name: value for name, value in lower.items() if name not in replaced} | upper


def stated_precision(values: Mapping[str, Any]) -> str | None:
    """Return the precision that options ask for, by name or by a flag; None if they leave it open.

    Raises:
        UserError: they ask for several.
    """
    stated = {name: f"{name}: true" for name in PRECISIONS if values.get(name)}
    if (asked := values.get("precision")) not in (None, "auto"):
        stated = {asked: f"precision {asked}"} | {name: text for name, text in stated.items() if name != asked}
    if len(stated) > 1:
        raise UserError(f"{' and '.join(stated.values())} are mutually exclusive: give one of them")
    return next(iter(stated), None)


def names_data(split: str, names: Iterable[str]) -> bool:
    """Return whether one of the options specifies the data of a split."""
    return any(split in find_option(name).provides for name in names)

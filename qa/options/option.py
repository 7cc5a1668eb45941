"""The row of an option in the table: its metadata, besides its type and default."""

from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from qa.runtime.errors import UserError

Precision = Literal["auto", "fp32", "fp16", "bf16"]  # of matrix products


@dataclass(frozen=True)
class Option:
    """One row of the table in ``qa.options.table``. The defaults apply if a field has no row.

    Attributes:
        name: as on the command line, without hyphens.
        group: heading under which ``--help`` and ``--help_all`` show it.
        help: the first sentence is for ``--help``, the rest for ``--help_all`` only. Fields of ``TrainingArguments``
            that are not common keep the help of transformers.
        default: as shown in ``--help``. Our own options have that of their dataclass field.
        common: shown in ``--help``.
        changes_result: whether another value changes the result of training, so that a run is not resumed with it:
            ``always``, ``never``, or not if the training windows, or the windows per step (the product of
            these options), stay the same.
        published: included in ``settings.yaml`` on the Hub and in the model card; with ``always``, defaults too. No
            other setting is read from a model on the Hub: none of these may name a file to read or write.
        private: left out of the command line in the model card.
        saved: kept in ``settings.yaml``.
        path: a file, saved with its absolute path.
        provides: splits whose data it specifies.
        belongs_to: ``run``: source and destination of a run, not read from the saved settings of a model; ``data``: not
            read from them for other data; ``sources``: one value per source, dropped if other sources are given.
        excludes: mutually exclusive options: setting both on one level (command line, file) is an error; one set on a
            higher level replaces the other on a lower level.
        planned: chosen by the planner, and kept when a run is resumed.
        kind: type of a field of ``TrainingArguments``; text where only the libraries know the choices, None where only
            they know how it is written.
        refused: why the field of ``TrainingArguments`` must keep its default.
        instead: what to write instead of this name of an older release or another program, which is always an error.
    """

    name: str = ""
    group: str = "other"
    help: str = ""
    default: Any = None
    common: bool = False
    changes_result: Literal["always", "never", "unless_same_windows", "unless_same_step"] = "always"
    published: Literal["no", "if_set", "always"] = "no"
    private: bool = False
    saved: bool = True
    path: bool = False
    provides: tuple[str, ...] = ()
    belongs_to: Literal["", "run", "data", "sources"] = ""
    excludes: tuple[str, ...] = ()
    planned: bool = False
    kind: Any = str
    refused: str = ""
    instead: str = ""


def option(default, help: str, group: str = "other", **known):
    """Return a dataclass field with a default, help and other attributes of ``Option``."""
    row = Option(help=help, group=group, default=default, **known)
    return field(default=default, metadata={"option": row})


def value_type(hint) -> Any:
    """Return the type that a value is parsed as: for a union, str if it includes None and str, else the other type.

    ``TrainingArguments`` has unions for values that it converts itself: ``dict | str | None``, ``SchedulerType | str``.
    """
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kinds = get_args(hint)
    if NoneType in kinds and str in kinds:
        return str
    return next(kind for kind in kinds if kind not in (NoneType, str))


def takes_list(hint) -> bool:
    """Return whether an option takes one value or several."""
    return get_origin(value_type(hint)) is list


def require(condition: bool, name: str, rule: str) -> None:
    if not condition:
        raise UserError(f"{name} {rule}")

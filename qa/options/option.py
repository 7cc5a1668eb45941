"""The row of an option: everything that is known of it, beside its type and default."""

from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Option:
    """One row of the table in ``qa.options.table``. Its defaults are what holds for a field that nobody has classified.

    Attributes:
        name: as on the command line, without hyphens.
        group: heading under which ``--help`` and ``--help_all`` show it.
        help: the first sentence is for ``--help``, the rest for ``--help_all`` only. Fields of ``TrainingArguments``
            that are not common have that of transformers.
        default: as shown in ``--help``. Our own options have that of their dataclass field.
        common: shown in ``--help``.
        changes_result: whether another value changes what training ends with, so that a run is not resumed with it:
            ``always`` (assumed unless known better), ``never``, or not if the training windows, or the examples of a
            step (the product of these options), stay the same.
        published: in ``settings.yaml`` on the Hub and in the model card, where ``always`` shows defaults, too. No other
            setting is taken from a model on the Hub: none of these may name a file or say what to write.
        private: left out of the command line in the model card.
        saved: kept in ``settings.yaml``.
        path: a file, saved with its full path.
        provides: splits whose data it names.
        belongs_to: ``run``: where a model came from and went to, not taken from its settings; ``data``: not taken from
            them for other data; ``sources``: a value for each source, dropped where other sources are given.
        excludes: options that answer the same question: given on one level both are an error, a higher level's
            replaces the other of a lower level.
        planned: chosen by the planner, and kept by a run that is resumed.
        refused: why the field of ``TrainingArguments`` must keep its default.
        instead: what to write instead of this old or foreign name, which is always an error.
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
    refused: str = ""
    instead: str = ""


def option(default, help: str, group: str = "other", **known):
    """Return a dataclass field with a default, help and what else is known of it (attributes of ``Option``)."""
    row = Option(help=help, group=group, default=default, **known)
    return field(default=default, metadata={"option": row})


def value_type(hint) -> Any:
    """Return the type that a value is parsed as: of a union, text if it may also be null, else what is not text.

    TrainingArguments annotates what it converts itself so: ``dict | str | None``, ``SchedulerType | str``.
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

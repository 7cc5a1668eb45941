"""Where the questions of a split come from: files, or datasets on the Hub, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import load_dataset

from qa.data.cache import CACHE_ADVICE
from qa.data.formats import read_file
from qa.io.files import is_disk_error
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line, writing_error

if TYPE_CHECKING:
    from qa.options.arguments import DataArguments


@dataclass
class Sources:
    """The sources of one split.

    Attributes:
        names: files or datasets.
        rows: (index of the source, place of the row, row), not checked; usually an iterator.
    """

    names: list[str]
    rows: Iterable[tuple[int, str, object]]

    def first(self, count: int | None) -> Sources:
        """Return the same with the first ``count`` rows (None: all)."""
        return Sources(self.names, itertools.islice(self.rows, count))


def open_sources(args: DataArguments, split: str, cache_dir: str | None) -> Sources | None:
    """Return the sources of a split, ``train`` or ``validation``; None if the arguments name none.

    Of several datasets, only the first is used for validation.

    Raises:
        UserError: a dataset could not be loaded, or one of several has no such split. Files are read, and their errors
            raised, only with the rows.
    """
    if args.train_file or args.validation_file:
        names = args.train_file if split == "train" else args.validation_file and [args.validation_file]
        found: list[Iterator[tuple[str, object]] | None] = [read_file(name) for name in names or []]
    else:
        names = (args.dataset_name or [])[: None if split == "train" else 1]
        found = [read_dataset(args, index, split, cache_dir) for index in range(len(names))]
        if len(names) == 1 and found[0] is None:
            return None
    if not names:
        return None
    if missing := [name for name, part in zip(names, found, strict=True) if part is None]:
        raise UserError(f"dataset {missing[0]} has no {split} split: leave it out")
    limits = args.max_train_samples_per_source if split == "train" else None
    limits = limits or [0] * len(found)
    parts = [itertools.islice(part, limit or None) for part, limit in zip(found, limits, strict=True) if part]
    columns = dict(pair.split("=", 1) for pair in args.columns or [])
    rows = ((index, place, rename_columns(row, columns)) for index, part in enumerate(parts) for place, row in part)
    return Sources(names, rows)


def rename_columns(row, columns: dict[str, str]):
    """Return a row with the values of its own columns under our names; ``columns`` maps our names to its own."""
    if not columns or not isinstance(row, dict):
        return row
    return row | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


def read_dataset(
    args: DataArguments, index: int, split: str, cache_dir: str | None
) -> Iterator[tuple[str, object]] | None:
    """Return (place, row) pairs of one of the datasets; None if it has no such split.

    A test split is used if there is no validation split.
    """
    sources = args.dataset_name or []
    source, configs = sources[index], args.dataset_config_name or ["null"] * len(sources)
    if len(configs) != len(sources):
        raise UserError("dataset_config_name needs a value for each dataset (null: none)")
    config = None if configs[index] in ("null", "none", "") else configs[index]
    try:
        loaded = load_dataset(source, config, cache_dir=cache_dir)
    except Exception as error:  # the Hub's client and the builders raise dozens of unrelated types
        if is_disk_error(error):
            raise writing_error(None, error, f"dataset {source}: the cache of downloads", CACHE_ADVICE) from None
        raise UserError(
            f"dataset {source} could not be loaded: {one_line(error)}; check the name and the network, log in with"
            " `hf auth login`, give --train_file and --validation_file, or try --config configs/demo.yaml"
        ) from None
    if split == "validation" and split not in loaded and "test" in loaded:
        warn(f"note: {source} has no validation split: using its test split")
        split = "test"
    if split not in loaded:
        return None
    return ((f"{source}, {split} row {number}", row) for number, row in enumerate(loaded[split], 1))

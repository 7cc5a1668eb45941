"""Where the questions of a split come from: files, or datasets on the Hub, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
        notes: list[list[str]] = [[] for _ in names or []]
        found: list[Iterator[tuple[str, object]] | None] = [
            read_question_file(name, note) for name, note in zip(names or [], notes, strict=True)
        ]
    else:
        names = (args.dataset_name or [])[: None if split == "train" else 1]
        if len(names) < len(args.dataset_name or []):
            warn(
                f"note: validation uses only {names[0]}, the first dataset; evaluate_qa.py --dataset_name NAME scores"
                " another"
            )
        notes = [[] for _ in names]
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
    renamed = [((place, rename_columns(row, columns)) for place, row in part) for part in parts]
    short = [Path(name).name for name in names]
    labels = names if len(set(short)) < len(short) else short
    numbered = [number_rows(*item) for item in zip(names, labels, renamed, notes, strict=True)]
    return Sources(names, ((index, place, row) for index, part in enumerate(numbered) for place, row in part))


def read_question_file(name: str, notes: list[str]) -> Iterator[tuple[str, object]]:
    """Read a file as ``read_file`` does; refuse a folder with what to write instead."""
    if Path(name).expanduser().is_dir():
        raise UserError(f"{name}: is a folder, not a file; give its files, or the folder as --dataset_name")
    yield from read_file(name, notes)


def rename_columns(row, columns: dict[str, str]):
    """Return a row with the values of its own columns under our names; ``columns`` maps our names to its own.

    Tables are read with our names in lower case, so these are tried too.
    """
    if not columns or not isinstance(row, dict):
        return row
    found = ((ours, theirs if theirs in row else theirs.lower()) for ours, theirs in columns.items())
    return row | {ours: row[theirs] for ours, theirs in found if theirs in row}


def number_rows(
    name: str, label: str, rows: Iterable[tuple[str, object]], notes: list[str]
) -> Iterator[tuple[str, object]]:
    """Yield the rows of a source, with ``label:number`` as their ids if the first row has none.

    Prints once what was recognized in the source, and that its ids are numbered.
    """
    numbered = None
    for number, (place, row) in enumerate(rows, 1):
        if numbered is None and isinstance(row, dict):
            numbered = "id" not in row
            if recognized := [*notes, *(["ids numbered"] if numbered else [])]:
                warn(f"note: {name}: {', '.join(recognized)}")
        if numbered and isinstance(row, dict) and "id" not in row:
            row = row | {"id": f"{label}:{number}"}
        yield place, row


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
        advice = "check the name and the network, log in with `hf auth login`, give --train_file and --validation_file"
        if Path(source).is_dir():
            advice = "give its files as --train_file and --validation_file, for which any file name will do"
        raise UserError(
            f"dataset {source} could not be loaded: {one_line(error)}; {advice}, or try --config configs/demo.yaml"
        ) from None
    if split == "validation" and split not in loaded and "test" in loaded:
        warn(f"note: {source} has no validation split: using its test split")
        split = "test"
    if split not in loaded:
        return None
    return ((f"{source}, {split} row {number}", row) for number, row in enumerate(loaded[split], 1))

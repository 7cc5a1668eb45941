"""SQuAD-format data from the Hub or from files: every question checked, used or counted as dropped.

Whatever the source, a split becomes a ``Dataset`` with the columns of the Hub's SQuAD: ``id``,
``title``, ``context``, ``question`` and ``answers`` (``text`` and ``answer_start``, lists of the same
length). An ``answer_start`` of -1 says that the text was not found in its context.
"""

import collections
import hashlib
import itertools
import os
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value, load_dataset
from datasets.arrow_writer import ArrowWriter

from qa.data.checks import Problem, Unusable, check_row
from qa.data.formats import read_file
from qa.data.window_cache import cache_folder, table_key
from qa.options.arguments import DataArguments
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line

FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)


STORED = Features(FEATURES | {"place": Value("string")})
BATCH = 1000  # examples that are written at once
EMPTY = "empty question"  # what evaluation drops, and scores the rest
CHOSEN = "no answer"  # dropped because version_2_with_negative is false: what was asked for, no problem


@dataclass
class Source:
    """A file or a dataset, and how many of its questions were read, and of these dropped."""

    name: str
    read: int = 0
    dropped: int = 0


@dataclass
class Split:
    """The questions of one split that are used, the count of the others, and all that was wrong.

    ``read == len(examples) + sum(dropped.values())``; the repaired ones, whose answers were moved or in part
    left out, are among the examples.
    """

    name: str
    examples: Dataset
    places: Sequence[str]  # where each example stands
    read: int
    sources: list[Source] = field(default_factory=list)
    source_index: array = field(default_factory=lambda: array("H"))  # of each example
    repaired: int = 0
    dropped: collections.Counter = field(default_factory=collections.Counter)
    unanswerable: int = 0
    problems: list[Problem] = field(default_factory=list)

    def first(self, reasons: Iterable[str]) -> str:
        """Place and detail of the first question dropped for one of ``reasons``."""
        return next(
            (f"{p.place}: {p.detail}" for p in self.problems if p.done == "dropped" and p.reason in reasons), ""
        )


def count_problems(problems: Iterable[Problem]) -> collections.Counter:
    """How many of each kind, by (reason, done), the most frequent first."""
    return collections.Counter(dict(collections.Counter((p.reason, p.done) for p in problems).most_common()))


def check_rows(
    name: str,
    rows: Iterable[tuple[int, str, object]],
    sources: list[str],
    has_unanswerable: bool | None,
    cache_dir: str | None = None,
) -> Split:
    """Turns rows into examples, on disk. Training drops what cannot be labelled; evaluation, what cannot be scored.

    Args:
        rows: each with the index of its source and the place where it stands.
    """
    split = Split(name, Dataset.from_dict({}), [], 0, [Source(source) for source in sources])
    folder = cache_folder(cache_dir, "qa_examples")
    staged = folder / f".{uuid.uuid4().hex}.arrow"
    hashes, before = array("Q"), []  # of the ids; how many examples stand before each problem
    try:
        with ArrowWriter(features=STORED, path=str(staged), writer_batch_size=BATCH) as writer:
            for place, example in checked(split, rows, has_unanswerable, before):
                hashes.append(short_hash(example["id"]))
                writer.write(example | {"place": place})
            writer.finalize()
        if not len(hashes):
            split.examples = Dataset.from_dict({key: [] for key in FEATURES}, features=FEATURES)
            return split
        final = folder / f"{table_key(Dataset.from_file(str(staged)).data.table)}.arrow"
        os.replace(staged, final)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {one_line(error)}; free some space, or set --cache_dir"
        ) from None
    finally:
        staged.unlink(missing_ok=True)
    stored = Dataset.from_file(str(final))
    split.examples, split.places = stored.select_columns(list(FEATURES)), stored["place"]
    if name == "train":
        for row, problem in duplicates(stored, np.frombuffer(hashes, dtype=np.uint64)):
            before.append(row)
            split.problems.append(problem)
        order = sorted(range(len(before)), key=before.__getitem__)
        split.problems = [split.problems[number] for number in order]
    return split


def checked(
    split: Split, rows: Iterable[tuple[int, str, object]], has_unanswerable: bool | None, before: list[int]
) -> Iterator[tuple[str, dict]]:
    """Yields the examples that rows make, each with its place; counts in ``split`` what becomes of the others.

    Args:
        before: gets for every problem the number of examples before it.
    """
    training = split.name == "train"
    seen: dict[str, str] = {}
    for index, place, row in rows:
        split.read += 1
        split.sources[index].read += 1
        try:
            example, findings = check_row(row, training)
            first = place if training else seen.setdefault(example["id"], place)
            if first != place:
                detail = f"its id {example['id']!r:.60} is that of {first}: no prediction could tell them apart"
                raise Unusable("duplicate id", detail)
        except Unusable as flaw:
            split.dropped[flaw.reason] += 1
            split.sources[index].dropped += 1
            split.problems.append(Problem(place, id_of(row), flaw.reason, flaw.detail, "dropped"))
            before.append(len(split.source_index))
            continue
        answered = bool(example["answers"]["text"])
        if training and not answered and has_unanswerable is False:
            split.dropped[CHOSEN] += 1
            split.sources[index].dropped += 1
            continue
        if findings:
            split.problems += [Problem(place, example["id"], *finding) for finding in findings]
            before += [len(split.source_index)] * len(findings)
            split.repaired += any(done != "kept" for _, _, done in findings)
        split.unanswerable += not answered
        split.source_index.append(index)
        yield place, example


def short_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def duplicates(stored: Dataset, hashes: np.ndarray) -> Iterator[tuple[int, Problem]]:
    """The training examples whose id an earlier one has, which are kept, each with its row.

    Args:
        hashes: (E,) of the ids, so that only those that may be equal are looked at.
    """
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[str, str] = {}
    for row in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else []:
        key, place = stored[row]["id"], stored[row]["place"]
        if first.setdefault(key, place) != place:
            detail = f"its id {key!r:.60} is that of {first[key]}"
            yield row, Problem(place, key, "duplicate id", detail, "kept")


def id_of(row) -> str:
    """The id of a row that may be anything, for a report."""
    value = row.get("id") if isinstance(row, dict) else None
    return str(value)[:200].encode(errors="replace").decode() if isinstance(value, (str, int)) else ""


Rows = Iterator[tuple[int, str, object]]  # index of the source, place, row


def sources_of(args: DataArguments, split: str, cache_dir: str | None) -> tuple[list[str], Rows] | None:
    """Names of a split's sources, and the rows of one after the other; None where the arguments name none."""
    if args.train_file or args.validation_file:
        names = args.train_file if split == "train" else args.validation_file and [args.validation_file]
        parts = [read_file(name) for name in names or []]
    else:
        names = (args.dataset_name or [])[: None if split == "train" else 1]
        parts = [read_dataset(args, index, split, cache_dir) for index in range(len(names))]
        if len(names) == 1 and parts[0] is None:
            return None
    if not names:
        return None
    if missing := [name for name, part in zip(names, parts, strict=True) if part is None]:
        raise UserError(f"dataset {missing[0]} has no {split} split: leave it out")
    caps = args.max_train_samples_per_source if split == "train" else None
    parts = [itertools.islice(part, cap or None) for part, cap in zip(parts, caps or [0] * len(parts), strict=True)]
    renamed = dict(pair.split("=", 1) for pair in args.columns or [])
    rows = ((index, place, rename(row, renamed)) for index, part in enumerate(parts) for place, row in part)
    return names, rows


def rename(row, renamed: dict[str, str]):
    """The row with the values of other columns under our names."""
    if not renamed or not isinstance(row, dict):
        return row
    return row | {ours: row[theirs] for ours, theirs in renamed.items() if theirs in row}


def read_dataset(
    args: DataArguments, index: int, split: str, cache_dir: str | None
) -> Iterator[tuple[str, object]] | None:
    """The rows of one of the datasets; None where it has no such split. Without a validation split, the test split."""
    source, configs = args.dataset_name[index], args.dataset_config_name or [None] * len(args.dataset_name)
    if len(configs) != len(args.dataset_name):
        raise UserError("dataset_config_name needs a value for each dataset (null: none)")
    config = None if configs[index] in ("null", "none", "") else configs[index]
    try:
        loaded = load_dataset(source, config, cache_dir=cache_dir)
    except Exception as error:  # the Hub's client and the builders raise dozens of unrelated types
        raise UserError(
            f"dataset {source} cannot be had: {one_line(error)}; check the name and the network, log in with"
            " `hf auth login`, give --train_file and --validation_file, or try --config configs/demo.yaml"
        ) from None
    if split == "validation" and split not in loaded and "test" in loaded:
        warn(f"note: {source} has no validation split: its test split is taken")
        split = "test"
    if split not in loaded:
        return None
    return ((f"{source}, {split} row {number}", row) for number, row in enumerate(loaded[split], 1))


def read_splits(args: DataArguments, names: tuple[str, ...], seed: int = 42, cache_dir: str | None = None) -> dict:
    """Reads and checks the splits in ``names`` that the arguments name a source for, to the end.

    ``args.version_2_with_negative`` is set from the data where it is None.

    Raises:
        UserError: a source that cannot be read at all; of several, all of them are named.
    """
    held_out = args.validation_split_percentage
    wanted = [name for name in ("train", "validation") if name in names or (held_out and name == "train")]
    limits = {"train": args.max_train_samples, "validation": None if held_out else args.max_eval_samples}
    rows, sources, errors = {}, {}, []
    for name in wanted:
        found = None if held_out and name == "validation" else sources_of(args, name, cache_dir)
        if found:
            sources[name], rows[name] = found[0], itertools.islice(found[1], limits[name])
    if held_out and "train" in rows:
        train = list(rows["train"])
        if not 0 < round(len(train) * held_out / 100) < len(train):
            raise UserError(f"validation_split_percentage {held_out} of {len(train)} questions leaves a part empty")
        parts = Dataset.from_dict({"row": range(len(train))}).train_test_split(held_out / 100, seed=seed)
        rows["train"] = [train[i] for i in parts["train"]["row"]]
        rows["validation"] = [train[i] for i in parts["test"]["row"]][: args.max_eval_samples]
        sources["validation"] = sources["train"]
    splits = {}
    for name in (name for name in ("train", "validation") if name in rows and name in names):
        try:
            splits[name] = check_rows(name, rows[name], sources[name], args.version_2_with_negative, cache_dir)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("; ".join(dict.fromkeys(errors)))
    if args.version_2_with_negative is None and splits:
        args.version_2_with_negative = any(split.unanswerable for split in splits.values())
    return splits


def load_splits(args: DataArguments, names: tuple[str, ...], seed: int = 42, cache_dir: str | None = None) -> dict:
    """``read_splits`` for use: what is wrong but bearable is said in a line on stderr, the rest stops.

    Raises:
        UserError: no usable question, a question that evaluation could not score, or, with ``strict``, any problem.
    """
    has_unanswerable = args.version_2_with_negative
    splits = read_splits(args, names, seed, cache_dir)
    for split in splits.values():
        require_usable(split, args, has_unanswerable)
    if warnings := find_warnings(splits):
        if args.strict:
            raise UserError(f"{warnings[0]}, and strict allows no problem")
        for warning in warnings:
            warn(f"warning: {warning}")
    return splits


def require_usable(split: Split, args: DataArguments, has_unanswerable: bool | None) -> None:
    """Raises UserError where a split cannot be used; ``has_unanswerable`` as the option says."""
    source = ", ".join(source.name for source in split.sources)
    if split.name != "train" and (lost := split.dropped.total() - split.dropped[EMPTY]):
        others = f"; and {lost - 1:,} more like it" if lost > 1 else ""
        raise UserError(
            f"{split.first(split.dropped.keys() - {EMPTY})}{others}: a score over fewer questions would not compare;"
            " mend the file, `python preprocess.py` lists every problem"
        )
    if not len(split.examples):
        lost = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items()) or "none was read"
        first = split.first(split.dropped)
        raise UserError(
            f"{source}: no usable question for {split.name} ({lost})" + (f"; the first: {first}" if first else "")
        )
    if empty := [part for part in split.sources if part.read == part.dropped] if len(split.sources) > 1 else []:
        first = next((f"{p.place}: {p.detail}" for p in split.problems if p.place.startswith(empty[0].name)), "")
        raise UserError(
            f"{empty[0].name}: no usable question among {empty[0].read:,}" + (f"; the first: {first}" if first else "")
        )
    if split.unanswerable == len(split.examples) and not has_unanswerable:
        raise UserError(
            f"{source}: no question of the {split.name} split has an answer: there is nothing to learn or to score"
        )
    if args.strict and split.problems:
        first = split.problems[0]
        raise UserError(
            f"{first.place}: {first.detail}; {len(split.problems):,} problems in the {split.name} split, and strict"
            " allows none: `python preprocess.py` lists them"
        )


def find_warnings(splits: dict[str, Split]) -> list[str]:
    """What is wrong but bearable, a line for each split, and one for what the splits share."""
    lines = []
    for name, split in splits.items():
        if split.problems:
            kinds = (f"{count:,} {reason} ({done})" for (reason, done), count in count_problems(split.problems).items())
            lines.append(f"{name} data: {', '.join(kinds)}; `python preprocess.py` lists them")
    if leaked := describe_leak(splits):
        lines.append(leaked[1])
    return lines


def describe_leak(splits: dict[str, Split]) -> tuple[int, str] | None:
    """How many validation contexts training sees too, and a line that says so; None where there are none."""
    if len(splits) < 2 or not all(len(split.examples) for split in splits.values()):
        return None
    held = pc.unique(splits["validation"].examples.data.column("context"))
    chunks = splits["train"].examples.data.column("context").chunks
    both = {text for chunk in chunks for text in chunk.filter(pc.is_in(chunk, value_set=held)).to_pylist()}
    line = f"{len(both):,} of {len(held):,} validation contexts are also in training: the scores will flatter"
    return (len(both), line) if both else None

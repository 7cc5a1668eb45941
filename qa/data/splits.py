"""Read the splits of a run, and decide whether they can be used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from datasets import Dataset

from qa.data.examples import Split, count_problems, make_split
from qa.data.formats import FORMATS
from qa.data.sources import Sources, open_sources
from qa.runtime.console import count, warn
from qa.runtime.errors import UserError

if TYPE_CHECKING:
    from qa.options.arguments import DataArguments

UNSCORED = "empty question"  # dropped in evaluation without changing the score of the others
EVALUATION_NAMES = ("validation", "valid", "val", "dev", "eval", "test")  # in names of files, the most likely first


def read_splits(
    args: DataArguments, names: tuple[str, ...], seed: int = 42, cache_dir: str | None = None
) -> dict[str, Split]:
    """Read and check the splits ``names``, except those for which the arguments name no source.

    Raises:
        UserError: a source cannot be read at all; if there are several such sources, all are named.
    """
    splits, errors = {}, []
    for name, sources in split_sources(args, names, seed, cache_dir).items():
        try:
            splits[name] = make_split(name, sources, args.version_2_with_negative, cache_dir)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("; ".join(dict.fromkeys(errors)))
    return splits


def has_unanswerable(args: DataArguments, splits: Iterable[Split]) -> bool:
    """Return whether questions may have no answer: ``version_2_with_negative``, or if it is None as in the data."""
    asked = args.version_2_with_negative
    return any(split.unanswerable for split in splits) if asked is None else asked


def split_sources(args: DataArguments, names: tuple[str, ...], seed: int, cache_dir: str | None) -> dict[str, Sources]:
    """Return the sources of the splits ``names``, limited to the numbers of questions that the arguments ask for."""
    held_out = args.validation_split_percentage
    sources = {}
    for name in ("train", "validation"):
        if name in (("train",) if held_out else names) and (found := open_sources(args, name, cache_dir)):
            sources[name] = found
    if "train" in sources:
        sources["train"] = sources["train"].first(args.max_train_samples)
        if held_out:
            sources["train"], sources["validation"] = hold_out(sources["train"], held_out, seed)
    if "validation" in sources:
        sources["validation"] = sources["validation"].first(args.max_eval_samples)
    return {name: sources[name] for name in sources if name in names}


def no_split(args: DataArguments, name: str) -> UserError:
    """Return the error of a split for which the arguments have no questions, with the option that gives some."""
    if name == "train":
        return UserError("no train questions: give --train_file, or a --dataset_name that has that split")
    share = "--validation_split_percentage 10 holds out a tenth of the training questions"
    if args.train_file:
        beside = find_evaluation_file(args.train_file)
        return UserError(f"no validation questions: give --validation_file{f' {beside}' if beside else ''}; {share}")
    if args.dataset_name:
        first = args.dataset_name[0]
        return UserError(
            f"no validation questions: {first} has no validation or test split; {share}, or name a dataset first that"
            " has such a split"
        )
    return UserError("no validation questions: give --validation_file, or a --dataset_name that has that split")


def find_evaluation_file(train_files: list[str]) -> str:
    """Return the file beside the first training file whose name says it is for evaluation, quoted; empty if none is."""
    folder = Path(train_files[0]).expanduser().parent
    used = {Path(name).name for name in train_files}
    files = [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if Path(path.name.removesuffix(".gz")).suffix.lower() in FORMATS and path.name not in used
    ]
    for word in EVALUATION_NAMES:
        for path in files:
            if word in re.split("[^a-z]+", path.name.lower()):
                return shlex.quote(str(path))
    return ""


def hold_out(train: Sources, percentage: int, seed: int) -> tuple[Sources, Sources]:
    """Divide training rows at random into those to train on and ``percentage`` of them for validation."""
    rows = list(train.rows)
    if not 0 < round(len(rows) * percentage / 100) < len(rows):
        raise UserError(
            f"validation_split_percentage {percentage} of {count(len(rows), 'question')} leaves one split empty"
        )
    parts = Dataset.from_dict({"row": range(len(rows))}).train_test_split(percentage / 100, seed=seed)
    kept, held_out = ([rows[i] for i in parts[name]["row"]] for name in ("train", "test"))
    return Sources(train.names, kept), Sources(train.names, held_out)


def load_splits(
    args: DataArguments, names: tuple[str, ...], seed: int = 42, cache_dir: str | None = None
) -> dict[str, Split]:
    """Read the splits for training or evaluation, and warn on stderr about problems that do not prevent it.

    Raises:
        UserError: no usable question, a question that evaluation could not score, or, with ``strict``, any problem.
    """
    splits = read_splits(args, names, seed, cache_dir)
    for split in splits.values():
        require_usable(split, args.version_2_with_negative, args.strict)
    if warnings := find_warnings(splits):
        if args.strict:
            raise UserError(f"{warnings[0]}, and strict allows no problems")
        for warning in warnings:
            warn(f"warning: {warning}")
    return splits


def require_usable(split: Split, unanswerable_expected: bool | None, strict: bool) -> None:
    """Check that a split can be used.

    Args:
        unanswerable_expected: ``version_2_with_negative`` as the user set it. strict: whether any problem is an error.

    Raises:
        UserError: no usable question in the split or in one of its sources, a question that evaluation could not score,
            no answer at all, or, with ``strict``, any problem.
    """
    if split.name != "train":
        require_complete(split)
    require_examples(split)
    if split.unanswerable == len(split.examples) and not unanswerable_expected:
        sources = ", ".join(source.name for source in split.sources)
        raise UserError(
            f"{sources}: no question of the {split.name} split has an answer: there is nothing to learn or to score"
        )
    if strict and split.problems:
        first = split.problems[0]
        raise UserError(
            f"{first.place}: {first.detail}; {count(len(split.problems), 'problem')} in the {split.name} split,"
            " and strict allows none: preprocess.py with the same options lists them"
        )


def require_complete(split: Split) -> None:
    """Raise UserError if questions were dropped that would change the score."""
    if dropped := split.dropped.total() - split.dropped[UNSCORED]:
        first = split.first_dropped(split.dropped.keys() - {UNSCORED})
        others = f"; and {dropped - 1:,} more like it" if dropped > 1 else ""
        raise UserError(
            f"{first}{others}: a score over fewer questions would not be comparable; fix the file;"
            " preprocess.py with the same options lists every problem"
        )


def require_examples(split: Split) -> None:
    """Raise UserError if the split, or one of its sources, has no usable question."""
    if not len(split.examples):
        sources = ", ".join(source.name for source in split.sources)
        dropped = ", ".join(f"{number} {reason}" for reason, number in split.dropped.items()) or "none was read"
        first = split.first_dropped(split.dropped)
        raise UserError(
            f"{sources}: no usable question for {split.name} ({dropped})" + (f"; the first: {first}" if first else "")
        )
    if len(split.sources) > 1 and (unused := [part for part in split.sources if part.read == part.dropped]):
        source = unused[0]
        first = next((f"{p.place}: {p.detail}" for p in split.problems if p.place.startswith(source.name)), "")
        raise UserError(
            f"{source.name}: no usable question among {source.read:,}" + (f"; the first: {first}" if first else "")
        )


def find_warnings(splits: dict[str, Split]) -> list[str]:
    """Return one line about the problems of each split, and one about contexts that the splits share."""
    lines = []
    for name, split in splits.items():
        lines += [f"{name} data: {line}" for source in split.sources if (line := source.shift_line())]
        if split.problems:
            kinds = (f"{found:,} {reason} ({done})" for (reason, done), found in count_problems(split.problems).items())
            lines.append(f"{name} data: {', '.join(kinds)}; preprocess.py with the same options lists them")
    if leaked := describe_leak(splits):
        lines.append(leaked[1])
    return lines


def describe_leak(splits: dict[str, Split]) -> tuple[int, str] | None:
    """Return how many validation contexts are also in the training data, and a line about it; None if none are."""
    if len(splits) < 2 or not all(len(split.examples) for split in splits.values()):
        return None
    validation = pc.unique(splits["validation"].examples.data.column("context"))
    chunks = splits["train"].examples.data.column("context").chunks
    both = {text for chunk in chunks for text in chunk.filter(pc.is_in(chunk, value_set=validation)).to_pylist()}
    verb = "is" if len(both) == 1 else "are"
    line = f"{len(both):,} of {count(len(validation), 'validation context')} {verb} also in training"
    line += ": scores will be optimistic"
    return (len(both), line) if both else None

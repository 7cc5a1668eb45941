"""Turn the rows of a split into a table of examples on disk, and count what was dropped or repaired.

Whatever the source, the examples have the columns of SQuAD on the Hub: ``id``, ``title``, ``context``, ``question`` and
``answers`` (``text`` and ``answer_start``, lists of the same length). An ``answer_start`` of -1 means that the answer
was not found in its context.
"""

import collections
import hashlib
import os
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from qa.data.answers import InvalidRow
from qa.data.cache import CACHE_ADVICE, cache_folder, table_key
from qa.data.checks import Problem, check_row, describe_shift
from qa.data.offset_shift import with_shifts
from qa.data.sources import Sources
from qa.io.files import writing

FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)
STORED_FEATURES = Features(FEATURES | {"place": Value("string")})
WRITE_BATCH = 1000  # examples
CHOSEN = "no answer"  # dropped because version_2_with_negative is false: as requested, so not a problem


@dataclass
class Source:
    """A file or dataset: how many questions were read from it, and how many of them were dropped.

    Attributes:
        answers: of the questions that are used.
        shift: characters that most wrong offsets lack (``offset_shift``); 0: they share no shift.
        shifted: answers that were located by it.
    """

    name: str
    read: int = 0
    dropped: int = 0
    answers: int = 0
    shift: int = 0
    shifted: int = 0

    def shift_line(self) -> str:
        """Return how many answers were located by the shift; empty if none were."""
        if not self.shifted:
            return ""
        verb = "answers are" if self.shifted > 1 else "answers is"
        return f"{self.name}: {self.shifted:,} of {self.answers:,} {verb} {describe_shift(self.shift)} (corrected)"


@dataclass
class Split:
    """The examples of one split, the counts of what was dropped, and every problem found.

    ``read == len(examples) + sum(dropped.values())``. Repaired examples, in which an answer was moved or left out, are
    among ``examples``.

    Attributes:
        places: where each example comes from.
        source_index: index in ``sources`` of each example.
        dropped: dropped questions by reason.
        unanswerable: examples without an answer.
    """

    name: str
    examples: Dataset
    places: Sequence[str]
    read: int
    sources: list[Source] = field(default_factory=list)
    source_index: array = field(default_factory=lambda: array("H"))
    repaired: int = 0
    dropped: collections.Counter = field(default_factory=collections.Counter)
    unanswerable: int = 0
    problems: list[Problem] = field(default_factory=list)

    def first_dropped(self, reasons: Iterable[str]) -> str:
        """Return place and detail of the first question dropped for one of ``reasons``; empty if there is none."""
        found = (p for p in self.problems if p.done == "dropped" and p.reason in reasons)
        return next((f"{problem.place}: {problem.detail}" for problem in found), "")


def count_problems(problems: Iterable[Problem]) -> collections.Counter:
    """Return how many problems there are of each kind, by (reason, done), the most frequent first."""
    return collections.Counter(dict(collections.Counter((p.reason, p.done) for p in problems).most_common()))


def make_split(name: str, sources: Sources, has_unanswerable: bool | None, cache_dir: str | None = None) -> Split:
    """Check every row of a split and write the examples to the cache.

    Training drops questions that cannot be labelled, validation those that cannot be scored.

    Args:
        has_unanswerable: False drops training questions without an answer.

    Raises:
        UserError: a source cannot be read, or the cache cannot be written.
    """
    split = Split(name, Dataset.from_dict({}), [], 0, [Source(source) for source in sources.names])
    folder = cache_folder(cache_dir, "qa_examples")
    staged = folder / f".{uuid.uuid4().hex}.arrow"
    id_hashes = array("Q")  # of each example
    rows_before: list[int] = []  # how many examples precede each problem
    try:
        with writing(folder, CACHE_ADVICE):
            with ArrowWriter(features=STORED_FEATURES, path=str(staged), writer_batch_size=WRITE_BATCH) as writer:
                for place, example in check_split(split, sources, has_unanswerable, rows_before):
                    id_hashes.append(short_hash(example["id"]))
                    writer.write(example | {"place": place})
                writer.finalize()
            if not len(id_hashes):
                split.examples = Dataset.from_dict({key: [] for key in FEATURES}, features=FEATURES)
                return split
            final = folder / f"{table_key(Dataset.from_file(str(staged)).data.table)}.arrow"
            os.replace(staged, final)
    finally:
        staged.unlink(missing_ok=True)
    stored = Dataset.from_file(str(final))
    split.examples, split.places = stored.select_columns(list(FEATURES)), stored["place"]
    if name == "train":
        for row, problem in find_duplicates(stored, np.frombuffer(id_hashes, dtype=np.uint64)):
            rows_before.append(row)
            split.problems.append(problem)
        order = sorted(range(len(rows_before)), key=rows_before.__getitem__)
        split.problems = [split.problems[number] for number in order]
    return split


def check_split(
    split: Split, sources: Sources, has_unanswerable: bool | None, rows_before: list[int]
) -> Iterator[tuple[str, dict]]:
    """Yield the place and the example of every usable row; count the others in ``split``.

    Args:
        rows_before: gets the number of examples before each problem.
    """
    training = split.name == "train"
    first_places: dict[str, str] = {}  # by id
    for index, place, row, shift in with_shifts(sources.rows):
        source = split.sources[index]
        split.read += 1
        source.read, source.shift = source.read + 1, shift
        try:
            example, findings, shifted = check_row(row, training, shift)
            first = place if training else first_places.setdefault(example["id"], place)
            if first != place:
                detail = f"its id {example['id']!r:.60} is already used by {first}: predictions are stored by id"
                raise InvalidRow("duplicate id", detail)
        except InvalidRow as invalid:
            split.dropped[invalid.reason] += 1
            source.dropped += 1
            split.problems.append(Problem(place, readable_id(row), invalid.reason, invalid.detail, "dropped"))
            rows_before.append(len(split.source_index))
            continue
        answered = bool(example["answers"]["text"])
        if training and not answered and has_unanswerable is False:
            split.dropped[CHOSEN] += 1
            source.dropped += 1
            continue
        if findings:
            split.problems += [Problem(place, example["id"], *finding) for finding in findings]
            rows_before += [len(split.source_index)] * len(findings)
            split.repaired += any(done != "kept" for _, _, done in findings)
        source.answers, source.shifted = source.answers + len(example["answers"]["text"]), source.shifted + shifted
        split.unanswerable += not answered
        split.source_index.append(index)
        yield place, example


def short_hash(text: str) -> int:
    """Return 64 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def find_duplicates(stored: Dataset, hashes: np.ndarray) -> Iterator[tuple[int, Problem]]:
    """Yield the row and the problem of every training example whose id an earlier one has; they are kept.

    Args:
        hashes: (E,) of the ids, so that only the few ids that may be equal are read.
    """
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    first_places: dict[str, str] = {}  # by id
    for row in np.flatnonzero(np.isin(hashes, repeated)).tolist() if len(repeated) else []:
        key, place = stored[row]["id"], stored[row]["place"]
        if first_places.setdefault(key, place) != place:
            detail = f"its id {key!r:.60} is already used by {first_places[key]}"
            yield row, Problem(place, key, "duplicate id", detail, "kept")


def readable_id(row) -> str:
    """Return the id of a row for a report; empty if it has none that can be printed."""
    value = row.get("id") if isinstance(row, dict) else None
    return str(value)[:200].encode(errors="replace").decode() if isinstance(value, (str, int)) else ""

"""Recognize that the wrong offsets of a source share one shift: a tool that counts from 1, or text put in front.

A shift decides which of several occurrences an answer is, so it must be clear: at least ``LEAST`` answers of the first
``SAMPLE`` questions are not at their offset and occur once in their context, and at least ``SHARE`` of those have the
same distance between offset and occurrence. It is then used only where the answer is exactly that far from its offset.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator

from qa.data.answers import InvalidRow, read_answers
from qa.data.checks import MISPLACED, OUT_OF_RANGE, locate

SAMPLE = 1000  # questions
LEAST = 10  # answers
SHARE = 0.8


def with_shifts(rows: Iterable[tuple[int, str, object]]) -> Iterator[tuple[int, str, object, int]]:
    """Yield (index of the source, place, row, shift of the source); the rows stay in their order.

    When a source begins, the next ``SAMPLE`` rows are read ahead, and no more than that are in memory.
    """
    rows = iter(rows)
    ahead: collections.deque[tuple[int, str, object]] = collections.deque()
    shifts: dict[int, int] = {}  # by source
    while True:
        if not ahead:
            ahead.extend(itertools.islice(rows, 1))
        if not ahead:
            return
        index = ahead[0][0]
        if index not in shifts:
            ahead.extend(itertools.islice(rows, SAMPLE - len(ahead)))
            shifts[index] = find_shift(row for source, _, row in ahead if source == index)
        yield *ahead.popleft(), shifts[index]


def find_shift(rows: Iterable[object]) -> int:
    """Return what must be added to most of the wrong offsets of the rows, in characters; 0 if they share no shift."""
    distances: collections.Counter[int] = collections.Counter()
    for row in rows:
        distances.update(wrong_offsets(row))
    if distances.total() < LEAST:
        return 0
    (shift, count), *_ = distances.most_common(1)
    return shift if count >= SHARE * distances.total() else 0


def wrong_offsets(row) -> Iterator[int]:
    """Yield the distance from each wrong offset of a row to its answer, if the answer occurs once in the context.

    Offsets of 0 and below say nothing: they often stand for an unknown one.
    """
    context = row.get("context") if isinstance(row, dict) else None
    if not isinstance(context, str):
        return
    try:
        for text, start in read_answers(row):
            if text.strip() and isinstance(start, (int, float)) and start > 0:
                at, reason = locate(context, text, start)
                if at >= 0 and reason in (MISPLACED, OUT_OF_RANGE):
                    yield at - int(start)
    except (InvalidRow, UnicodeEncodeError):  # reported when the row is checked
        return

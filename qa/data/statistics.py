"""How many questions of a split were read, repaired, dropped and used, by reason and by source."""

import collections
import math

import numpy as np

from qa.data.checks import Problem
from qa.data.examples import CHOSEN, Split, count_problems
from qa.runtime.console import count
from qa.runtime.errors import UserError


def is_reachable(example_index: np.ndarray, unreachable: dict[int, str]) -> np.ndarray:
    """Return (W,) whether each window's example is not among the ``unreachable`` ones."""
    return ~np.isin(example_index, list(unreachable))


def dropped_because(split: Split, unreachable: dict[int, str]) -> collections.Counter:
    """Count the dropped questions by reason, the ``unreachable`` ones included."""
    return split.dropped + collections.Counter(f"answer {reason}" for reason in unreachable.values())


def unreachable_problems(split: Split, unreachable: dict[int, str]) -> list[Problem]:
    """Return the ``unreachable`` examples of a training split as problems."""
    return [
        Problem(split.places[row], split.examples[row]["id"], f"answer {why}", f"its answer: {why}", "dropped")
        for row, why in unreachable.items()
    ]


def check_dropped(split: Split, unreachable: dict[int, str], max_dropped: float, strict: bool) -> None:
    """Raise UserError if more of the training questions are dropped than ``max_dropped`` or ``strict`` allows."""
    reasons = dropped_because(split, unreachable)
    del reasons[CHOSEN]
    dropped = reasons.total()
    if strict and unreachable:
        problem = unreachable_problems(split, unreachable)[0]
        raise UserError(
            f"{problem.place}: {problem.detail}; {count(len(unreachable), 'such question')}, and strict allows none:"
            " another max_seq_length or doc_stride may hold them"
        )
    if dropped > max_dropped * split.read:
        enough = math.ceil(dropped / split.read * 100) / 100
        raise UserError(
            f"{dropped:,} of {count(split.read, 'training question')} cannot be used ({counted(reasons)}):"
            f" preprocess.py with the same options lists them; fix the data, or train"
            f" without them with --max_dropped {enough}"
        )


def counted(reasons: collections.Counter) -> str:
    """Return the reasons with their counts on one line."""
    return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())


def by_source(split: Split, unreachable: dict[int, str]) -> list[dict]:
    """Return the counts for each of several sources; nothing for a single one."""
    unused = collections.Counter(split.source_index[row] for row in unreachable)
    return [
        {
            "source": source.name,
            "read": source.read,
            "dropped": source.dropped + unused[index],
            "examples": source.read - source.dropped - unused[index],
        }
        for index, source in enumerate(split.sources)
        if len(split.sources) > 1
    ]


def describe(split: Split, windows: int, unreachable: dict[int, str], has_unanswerable: bool) -> str:
    """Return the counts of one split on one line, then a line for each of several sources."""
    reasons = dropped_because(split, unreachable)
    parts = [f"{split.name}: {count(split.read, 'question')} read, {sum(reasons.values()):,} dropped"]
    if reasons:
        parts[0] += f" ({counted(reasons)})"
    parts.append(count(len(split.examples) - len(unreachable), "example"))
    if split.repaired:
        parts.append(f"{split.repaired:,} repaired")
    if split.unanswerable:
        scored = " (scored as SQuAD 2.0)" if has_unanswerable else ""
        parts.append(f"{split.unanswerable:,} unanswerable{scored}")
    lines = [", ".join([*parts, count(windows, "window")])]
    for part in by_source(split, unreachable):
        counts = f"{part['read']:,} read, {part['dropped']:,} dropped, {count(part['examples'], 'example')}"
        lines.append(f"  {part['source']}: {counts}")
    return "\n".join(lines)


def count_questions(split: Split, unused: dict[int, str]) -> dict:
    """Return the counts of one split for ``summary.json``; ``unused`` examples count as dropped."""
    dropped = dropped_because(split, unused)
    problems = split.problems + unreachable_problems(split, unused)
    sources = by_source(split, unused)
    shifts = {source.name: source.shift_line() for source in split.sources if source.shifted}
    return (
        {
            "read": split.read,
            "dropped": dropped.total(),
            "repaired": split.repaired,
            "examples": len(split.examples) - len(unused),
            "unanswerable": split.unanswerable,
            "dropped_because": dict(dropped),
            "problems": [
                {"reason": reason, "done": done, "count": number}
                for (reason, done), number in count_problems(problems).items()
            ],
        }
        | ({"sources": sources} if sources else {})
        | ({"shifts": list(shifts.values())} if shifts else {})
    )

"""What became of a split's questions, and how many windows they make."""

import collections
import math

import numpy as np

from qa.data.checks import Problem
from qa.data.splits import CHOSEN, Split, count_problems
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError


def is_reachable(example_index: np.ndarray, unreachable: dict[int, str]) -> np.ndarray:
    """(W,) whether a window's example is not among the ``unreachable`` ones."""
    return ~np.isin(example_index, list(unreachable))


def dropped_because(split: Split, unreachable: dict[int, str]) -> collections.Counter:
    """Every reason for which questions are not used, with its count; ``unreachable`` ones among them."""
    return split.dropped + collections.Counter(f"answer {reason}" for reason in unreachable.values())


def unreachable_problems(split: Split, unreachable: dict[int, str]) -> list[Problem]:
    """The ``unreachable`` examples of a training split as problems."""
    return [
        Problem(split.places[row], split.examples[row]["id"], f"answer {why}", f"its answer: {why}", "dropped")
        for row, why in unreachable.items()
    ]


def check_dropped(split: Split, unreachable: dict[int, str], args: DataArguments) -> None:
    """Raises UserError where more of the training questions are dropped than ``max_dropped`` allows."""
    reasons = dropped_because(split, unreachable)
    del reasons[CHOSEN]
    count = reasons.total()
    if args.strict and unreachable:
        problem = unreachable_problems(split, unreachable)[0]
        raise UserError(
            f"{problem.place}: {problem.detail}; {len(unreachable):,} such questions, and strict allows none:"
            " other lengths of windows may hold them"
        )
    if count > args.max_dropped * split.read:
        enough = math.ceil(count / split.read * 100) / 100
        raise UserError(
            f"{count:,} of {split.read:,} training questions cannot be used ({counted(reasons)}):"
            f" `python preprocess.py` lists them; mend the data, or train all the same with"
            f" --max_dropped {enough}"
        )


def counted(reasons: collections.Counter) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def by_source(split: Split, unreachable: dict[int, str]) -> list[dict]:
    """What became of the questions of each of several sources; nothing where there is only one."""
    gone = collections.Counter(split.source_index[row] for row in unreachable)
    return [
        {
            "source": source.name,
            "read": source.read,
            "dropped": source.dropped + gone[index],
            "examples": source.read - source.dropped - gone[index],
        }
        for index, source in enumerate(split.sources)
        if len(split.sources) > 1
    ]


def describe(split: Split, windows: int, unreachable: dict[int, str], has_unanswerable: bool) -> str:
    """What became of the questions of one split in one line, and one for each of several sources."""
    reasons = dropped_because(split, unreachable)
    parts = [f"{split.name}: {split.read:,} questions read, {sum(reasons.values()):,} dropped"]
    if reasons:
        parts[0] += f" ({counted(reasons)})"
    parts.append(f"{len(split.examples) - len(unreachable):,} examples")
    if split.repaired:
        parts.append(f"{split.repaired:,} repaired")
    if split.unanswerable:
        scored = " (scored as SQuAD 2.0)" if has_unanswerable else ""
        parts.append(f"{split.unanswerable:,} without an answer{scored}")
    lines = [", ".join([*parts, f"{windows:,} windows"])]
    for part in by_source(split, unreachable):
        lines.append(
            f"  {part['source']}: {part['read']:,} read, {part['dropped']:,} dropped, {part['examples']:,} examples"
        )
    return "\n".join(lines)


def count_questions(split: Split, unused: dict[int, str]) -> dict:
    """What became of the questions of one split, for ``summary.json``; ``unused`` examples count as dropped."""
    dropped = dropped_because(split, unused)
    problems = split.problems + unreachable_problems(split, unused)
    sources = by_source(split, unused)
    return {
        "read": split.read,
        "dropped": dropped.total(),
        "repaired": split.repaired,
        "examples": len(split.examples) - len(unused),
        "unanswerable": split.unanswerable,
        "dropped_because": dict(dropped),
        "problems": [
            {"reason": reason, "done": done, "count": count}
            for (reason, done), count in count_problems(problems).items()
        ],
    } | ({"sources": sources} if sources else {})

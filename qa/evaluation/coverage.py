"""What the windows of a split hold: counts, lengths, unreachable answers, and the ceiling they set."""

import collections
import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from qa.data.checks import Problem
from qa.data.splits import CHOSEN, Split, count_problems
from qa.data.windows import WindowArrays, column, first_answer
from qa.evaluation.evaluator import Evaluator
from qa.evaluation.squad_metric import f1_score
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

LOWEST_LABEL_F1 = 95.0


def unreachable(examples: Dataset, windows: WindowArrays) -> dict[int, str]:
    """Examples whose answer no window holds whole, by row, each with the reason."""
    reached = np.zeros(len(examples), dtype=bool)
    reached[windows.example_index[windows.labelled]] = True
    reasons = {}
    for index in np.flatnonzero(~reached).tolist():
        answers = examples[index]["answers"]
        if answers["text"]:
            reasons[index] = why_unreachable(answers, windows, np.flatnonzero(windows.example_index == index))
    return reasons


def why_unreachable(answers: dict, windows: WindowArrays, rows: np.ndarray) -> str:
    begin, end = first_answer(answers)
    if begin < 0:
        return "not found in the context"
    last = 0
    for row in rows:
        offsets = windows.offset_mapping[windows.tokens[row] : windows.tokens[row + 1]]
        if ((offsets[:, 0] < end) & (offsets[:, 1] > begin)).any():
            return "longer than neighbouring windows share"
        last = max(last, int(offsets[:, 1].max(initial=0)))
    return "beyond the last window" if begin >= last else "no token covers it"


def outside(example_index: np.ndarray, lost: dict[int, str]) -> np.ndarray:
    """(W,) whether a window's example is not among the ``lost`` ones."""
    return ~np.isin(example_index, list(lost))


def dropped_because(split: Split, lost: dict[int, str]) -> collections.Counter:
    """Every reason for which questions are not used, with its count; ``lost`` ones among them."""
    return split.dropped + collections.Counter(f"answer {reason}" for reason in lost.values())


def lost_problems(split: Split, lost: dict[int, str]) -> list[Problem]:
    """The ``lost`` examples of a training split as problems."""
    return [
        Problem(split.places[row], split.examples[row]["id"], f"answer {why}", f"its answer: {why}", "dropped")
        for row, why in lost.items()
    ]


def check_dropped(split: Split, lost: dict[int, str], args: DataArguments) -> None:
    """Raises UserError where more of the training questions are dropped than ``max_dropped`` allows."""
    reasons = dropped_because(split, lost)
    del reasons[CHOSEN]
    count = reasons.total()
    if args.strict and lost:
        problem = lost_problems(split, lost)[0]
        raise UserError(
            f"{problem.place}: {problem.detail}; {len(lost):,} such questions, and strict allows none: other lengths"
            " of windows may hold them"
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


def by_source(split: Split, lost: dict[int, str]) -> list[dict]:
    """What became of the questions of each of several sources; nothing where there is only one."""
    gone = collections.Counter(split.source_index[row] for row in lost)
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


def describe(split: Split, windows: int, lost: dict[int, str], negatives: bool) -> str:
    """What became of the questions of one split in one line, and one for each of several sources."""
    reasons = dropped_because(split, lost)
    parts = [f"{split.name}: {split.read:,} questions read, {sum(reasons.values()):,} dropped"]
    if reasons:
        parts[0] += f" ({counted(reasons)})"
    parts.append(f"{len(split.examples) - len(lost):,} examples")
    if split.repaired:
        parts.append(f"{split.repaired:,} repaired")
    if split.unanswerable:
        scored = " (scored as SQuAD 2.0)" if negatives else ""
        parts.append(f"{split.unanswerable:,} without an answer{scored}")
    lines = [", ".join([*parts, f"{windows:,} windows"])]
    for part in by_source(split, lost):
        lines.append(
            f"  {part['source']}: {part['read']:,} read, {part['dropped']:,} dropped, {part['examples']:,} examples"
        )
    return "\n".join(lines)


def label_f1(examples: Dataset, windows: WindowArrays) -> np.ndarray:
    """Sum of the F1 of the labels, decoded back to text, against the answers they stand for; and how many they are."""
    rows = np.flatnonzero(windows.labelled)
    _, first = np.unique(windows.example_index[rows], return_index=True)
    rows = rows[first]
    tokens = windows.tokens[rows] - windows.context_start[rows]
    begin = windows.offset_mapping[tokens + windows.start_positions[rows], 0]
    end = windows.offset_mapping[tokens + windows.end_positions[rows], 1]
    contexts, answers = examples["context"][:], examples["answers"][:]
    total = 0.0
    for index, start, stop in zip(windows.example_index[rows].tolist(), begin.tolist(), end.tolist(), strict=True):
        decoded, gold = contexts[index][start:stop], answers[index]["text"][0]
        total += 1.0 if decoded == gold else f1_score(decoded, gold)
    return np.array([total, len(rows)])


@dataclass
class Overview:
    """What the windows of a split hold, looked at part by part.

    Attributes:
        label_f1: mean in percent of the labels, decoded back to text. lost: as ``unreachable`` says.
        ceiling: EM and F1 of perfect logits, if they were asked for.
    """

    label_f1: float
    lost: dict[int, str]
    ceiling: dict[str, float]

    @classmethod
    def of(cls, examples: Dataset, windows: Dataset, args: DataArguments | None = None) -> "Overview":
        """With ``args`` the ceiling too."""
        labels, lost, ceilings = np.zeros(2), {}, []
        for first, part, arrays in WindowArrays.parts(examples, windows):
            labels += label_f1(part, arrays)
            lost |= {first + row: why for row, why in unreachable(part, arrays).items()}
            if args:
                ceilings.append((len(part), Evaluator(part, arrays, args).ceiling()))
        return cls(100.0 * labels[0] / labels[1] if labels[1] else 100.0, lost, mean_scores(ceilings))


def mean_scores(parts: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The scores over all questions from those over parts of them, each with its number of questions."""
    if len(parts) < 2:
        return parts[0][1] if parts else {}
    sums, counts = collections.Counter(), collections.Counter()
    for size, scores in parts:
        for name, value in scores.items():
            kind = name.split("_")[0]
            count = scores.get(f"{kind}_total", size)
            sums[name] += value if name.endswith("total") else value * count
            counts[name] += 1 if name.endswith("total") else count
    return {name: total if name.endswith("total") else total / counts[name] for name, total in sums.items()}


def check_labels(name: str, reached: float) -> None:
    """Raises UserError where the labels' F1 is so low that the offsets must be wrong."""
    if reached < LOWEST_LABEL_F1:
        raise UserError(
            f"the labels of the {name} split, decoded back to text, reach F1 {reached:.1f} against their own answers"
            f" (at least {LOWEST_LABEL_F1:.0f} expected): this tokenizer's offsets are wrong; use another tokenizer"
        )


def count_questions(split: Split, unused: dict[int, str]) -> dict:
    """What became of the questions of one split, for ``summary.json``; ``unused`` examples count as dropped."""
    dropped = dropped_because(split, unused)
    problems = split.problems + lost_problems(split, unused)
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


def summarize(split: Split, unused: dict[int, str], overview: Overview, windows: Dataset) -> dict:
    """The figures of one split for ``summary.json``.

    Args:
        unused: those of ``overview.lost`` that are not used, for training all.
    """
    index, length = column(windows, "example_index"), column(windows, "length")
    return count_questions(split, unused) | {
        "features": int(outside(index, unused).sum()),
        "questions_cut": len(np.unique(index[column(windows, "question_cut")])),
        "window_length": {
            "mean": round(float(length.mean()), 2),
            "p95": int(np.percentile(length, 95)),
            "max": int(length.max()),
        },
        "answers_out_of_reach": dict(collections.Counter(overview.lost.values())),
        "label_f1": round(overview.label_f1, 4),
        "ceiling": overview.ceiling,
    }

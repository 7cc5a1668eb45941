"""How much of a split its windows cover: unreachable answers, correctness of the labels, and the ceiling of scores."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from qa.data.examples import Split
from qa.data.labels import first_answer
from qa.data.statistics import count_questions, is_reachable
from qa.data.windows import WindowArrays, column
from qa.evaluation.evaluator import Evaluator
from qa.evaluation.official_scores import f1_score
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

LOWEST_LABEL_F1 = 95.0  # percent; below it the tokenizer's offsets must be wrong


def find_unreachable(examples: Dataset, windows: WindowArrays) -> dict[int, str]:
    """Return the rows of examples whose complete answer is in no window, each with the reason."""
    reached = np.zeros(len(examples), dtype=bool)
    reached[windows.example_index[windows.labelled]] = True
    reasons = {}
    for index in np.flatnonzero(~reached).tolist():
        answers = examples[index]["answers"]
        if answers["text"]:
            reasons[index] = why_unreachable(answers, windows, np.flatnonzero(windows.example_index == index))
    return reasons


def why_unreachable(answers: dict, windows: WindowArrays, rows: np.ndarray) -> str:
    """Return why none of the windows ``rows`` of an example contains its complete answer."""
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


def label_f1(examples: Dataset, windows: WindowArrays) -> np.ndarray:
    """Return the summed F1 of the labels, decoded back to text, against their answers; and the number of labels."""
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
class WindowStatistics:
    """How much of a split its windows cover."""

    label_f1: float  # percent, mean over the labels, decoded back to text
    unreachable: dict[int, str]  # see find_unreachable
    ceiling: dict[str, float]  # official totals of perfect logits; empty unless requested

    @classmethod
    def from_windows(
        cls, examples: Dataset, windows: Dataset, args: DataArguments | None = None, has_unanswerable: bool = False
    ) -> "WindowStatistics":
        """Compute the statistics in parts, which bounds the memory; the ceiling only with ``args``."""
        labels, ceilings = np.zeros(2), []
        unreachable: dict[int, str] = {}
        for first, part, arrays in WindowArrays.parts(examples, windows):
            labels += label_f1(part, arrays)
            unreachable |= {first + row: why for row, why in find_unreachable(part, arrays).items()}
            if args:
                evaluator = Evaluator(with_unique_ids(part), arrays, args, has_unanswerable)
                ceilings.append((len(part), evaluator.ceiling().totals))
        return cls(100.0 * labels[0] / labels[1] if labels[1] else 100.0, unreachable, mean_scores(ceilings))


def with_unique_ids(examples: Dataset) -> Dataset:
    """Return the examples, with their row numbers as ids if an id occurs twice, as answers are scored by id."""
    if len(set(examples["id"])) == len(examples):
        return examples
    return examples.remove_columns("id").add_column("id", [str(row) for row in range(len(examples))])


def mean_scores(parts: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Return the totals over all questions from those over parts, each with its number of questions."""
    if len(parts) < 2:
        return parts[0][1] if parts else {}
    sums: dict[str, float] = collections.defaultdict(float)
    counts: dict[str, float] = collections.defaultdict(float)
    for size, scores in parts:
        for name, value in scores.items():
            kind = name.split("_")[0]
            count = scores.get(f"{kind}_total", size)
            sums[name] += value if name.endswith("total") else value * count
            counts[name] += 1 if name.endswith("total") else count
    return {name: total if name.endswith("total") else total / counts[name] for name, total in sums.items()}


def check_labels(name: str, reached: float) -> None:
    """Raise UserError if the labels' F1 is so low that the offsets must be wrong."""
    if reached < LOWEST_LABEL_F1:
        raise UserError(
            f"the labels of the {name} split, decoded back to text, reach F1 {reached:.1f} against their own answers"
            f" (at least {LOWEST_LABEL_F1:.0f} expected): the tokenizer's offsets are wrong; use another tokenizer"
        )


def summarize(split: Split, unused: dict[int, str], statistics: WindowStatistics, windows: Dataset) -> dict:
    """Return the figures of one split for ``summary.json``.

    Args:
        unused: the examples of ``statistics.unreachable`` that are dropped: all of them for training, else none.
    """
    index, length = column(windows, "example_index"), column(windows, "length")
    return count_questions(split, unused) | {
        "features": int(is_reachable(index, unused).sum()),
        "questions_cut": len(np.unique(index[column(windows, "question_cut")])),
        "window_length": {
            "mean": round(float(length.mean()), 2),
            "p95": int(np.percentile(length, 95)),
            "max": int(length.max()),
        },
        "answers_out_of_reach": dict(collections.Counter(statistics.unreachable.values())),
        "label_f1": round(statistics.label_f1, 4),
        "ceiling": statistics.ceiling,
    }

"""The report of preprocess.py on each split: counts, problems, windows, and errors that would stop training."""

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qa.data.checks import Problem
from qa.data.examples import Split
from qa.data.splits import require_usable
from qa.data.statistics import check_dropped, count_questions, unreachable_problems
from qa.data.window_cache import load_windows
from qa.evaluation.coverage import LOWEST_LABEL_F1, WindowStatistics, summarize
from qa.io.files import write_text
from qa.options.arguments import DataArguments
from qa.runtime.console import count, table
from qa.runtime.errors import UserError

EXAMPLES = 3  # problems of each kind that are printed; the file has all of them
PLACE = re.compile(r".*?(\w* ?(?:article|row|line) \d+(?:, (?:paragraph|question) \d+)*)")


@dataclass(frozen=True)
class SplitReport:
    """The findings about one split."""

    summary: dict  # as in summary.json
    problems: list[Problem]
    blockers: list[str]  # errors that would stop train.py or evaluate_qa.py
    usable: bool  # whether there are any examples


def inspect_split(
    split: Split, tokenizer, args: DataArguments, cache_dir: str | None, has_unanswerable: bool
) -> SplitReport:
    """Cut a split into windows, and summarize it; ``strict`` is left to the caller, which has all problems.

    Args:
        has_unanswerable: whether questions may have no answer, as asked for or found in the data.
    """
    unused, problems, blockers = {}, split.problems, []
    usable = len(split.examples) > 0
    if usable:
        windows = load_windows(split.examples, tokenizer, args, cache_dir, split.name)
        statistics = WindowStatistics.from_windows(split.examples, windows, args, has_unanswerable)
        unused = statistics.unreachable if split.name == "train" else {}
        problems = split.problems + unreachable_problems(split, unused)
        summary = summarize(split, unused, statistics, windows)
        if summary["label_f1"] < LOWEST_LABEL_F1:
            blockers.append(f"the labels of the {split.name} split do not decode back to the answers")
    else:
        summary = count_questions(split, unused)
    try:
        require_usable(split, args.version_2_with_negative, strict=False)
        if split.name == "train":
            check_dropped(split, unused, args.max_dropped, strict=False)
    except UserError as error:
        blockers.append(str(error))
    return SplitReport(summary, problems, blockers, usable)


def print_reports(reports: dict[str, SplitReport], leak: str | None) -> None:
    """Print the table of each split, then warnings about training and evaluation."""
    for name, report in reports.items():
        print(table(summary_rows(name, report.summary, report.problems)) + "\n")
    if leak:
        print(f"warning: {leak}")
    for blocker in (line for report in reports.values() if report.usable for line in report.blockers):
        print(f"warning: train.py or evaluate_qa.py would fail: {blocker}")


def summary_rows(name: str, summary: dict, problems: list[Problem]) -> list[tuple[str, object]]:
    """Return the report of one split as rows of a table."""
    result: list[tuple[str, object]] = [
        (name, f"{count(summary['read'], 'question')} read"),
        ("examples", f"{summary['examples']:,} used, {summary['dropped']:,} dropped, {summary['repaired']:,} repaired"),
    ]
    for part in summary.get("sources", []):
        counts = f"{part['read']:,} read, {part['dropped']:,} dropped, {part['examples']:,} used"
        result.append(("source", f"{part['source']}: {counts}"))
    result += [("offsets", line) for line in summary.get("shifts", [])]
    for reason, number in summary["dropped_because"].items():
        result += [("dropped", f"{number:,}: {reason}"), *first_problems(problems, reason, "dropped")]
    for kind in summary["problems"]:
        if kind["done"] != "dropped":
            result.append((kind["done"], f"{kind['count']:,}: {kind['reason']}"))
            result += first_problems(problems, kind["reason"], kind["done"])
    if summary["unanswerable"]:
        result.append(("unanswerable", count(summary["unanswerable"], "question")))
    return result + window_rows(name, summary) if "features" in summary else result


def window_rows(name: str, summary: dict) -> list[tuple[str, object]]:
    """Return the rows of the report about the windows of a split."""
    length, ceiling = summary["window_length"], summary["ceiling"]
    result: list[tuple[str, object]] = [
        ("features", count(summary["features"], "window")),
        ("window length", f"mean {length['mean']:.1f}, 95 % up to {length['p95']}, longest {length['max']} tokens"),
    ]
    if name != "train":
        for reason, number in summary["answers_out_of_reach"].items():
            result.append(("unreachable", f"{count(number, 'answer')}: {reason}"))
    if summary["questions_cut"]:
        result.append(("truncated", f"{count(summary['questions_cut'], 'question')} longer than max_query_length"))
    exact = ceiling["exact_match"] if "exact_match" in ceiling else ceiling["exact"]
    result.append(("labels", f"decoded back to text reach F1 {summary['label_f1']:.2f}"))
    result.append(("ceiling", f"perfect logits score EM {exact:.2f}, F1 {ceiling['f1']:.2f}"))
    return result


def first_problems(problems: Iterable[Problem], reason: str, done: str) -> list[tuple[str, str]]:
    """Return rows with place, id and detail of the first problems of one kind, 80 columns wide."""
    kind = [problem for problem in problems if (problem.reason, problem.done) == (reason, done)]
    lines = []
    for problem in kind[:EXAMPLES]:
        where = PLACE.fullmatch(problem.place)
        key = f" (id {problem.id!r:.40})" if problem.id else ""
        text = f"{where[1].strip() if where else problem.place}{key}: {problem.detail}"
        lines += textwrap.wrap(text, 61, initial_indent="- ", subsequent_indent="  ", max_lines=4, placeholder=" ...")
    return [("", line) for line in lines]


def write_problems(path: Path, problems: dict[str, list[Problem]]) -> None:
    """Write every problem of every split as a JSON line."""
    lines = (
        json.dumps({"split": name} | dataclasses.asdict(problem), ensure_ascii=False)
        for name, found in problems.items()
        for problem in found
    )
    write_text(path, "".join(f"{line}\n" for line in lines))

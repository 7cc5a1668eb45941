"""Read SQuAD-format data, report every problem in it, cut it into windows, and say what came out.

Examples:
    python preprocess.py                                                      # the data of config.yaml
    python preprocess.py --tokenizer_name albert/albert-base-v2 --train_file my.json --output_dir checked
    python preprocess.py --train_file my.json --output_dir checked --strict   # any problem ends with exit status 2
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback


import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from qa.data.checks import Problem
from qa.data.demo import write_demo
from qa.data.splits import describe_leak, read_splits, require_usable
from qa.data.statistics import check_dropped, count_questions, unreachable_problems
from qa.data.window_cache import load_windows
from qa.data.windows import WindowSettings, check_lengths
from qa.evaluation.coverage import LOWEST_LABEL_F1, WindowStatistics, summarize
from qa.io.files import make_folder, write_json, write_text
from qa.io.run_folder import PROBLEMS, SUMMARY
from qa.model.loading import load_tokenizer
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments, TrainingOptions
from qa.options.parser import parse_arguments
from qa.runtime.console import table
from qa.runtime.errors import UserError
from qa.runtime.process import run_command

SHOWN = 3  # problems of each kind that are printed; the file has them all
PLACE = re.compile(r".*?(\w* ?(?:article|row|line) \d+(?:, (?:paragraph|question) \d+)*)")


def rows(name: str, summary: dict, problems: list[Problem]) -> list[tuple[str, object]]:
    """The table of one split."""
    result: list[tuple[str, object]] = [
        (name, f"{summary['read']:,} questions read"),
        ("examples", f"{summary['examples']:,} used, {summary['dropped']:,} dropped, {summary['repaired']:,} repaired"),
    ]
    for part in summary.get("sources", []):
        counts = f"{part['read']:,} read, {part['dropped']:,} dropped, {part['examples']:,} used"
        result.append(("source", f"{part['source']}: {counts}"))
    for reason, count in summary["dropped_because"].items():
        result += [("dropped", f"{count:,}: {reason}"), *first_ones(problems, reason, "dropped")]
    for kind in summary["problems"]:
        if kind["done"] != "dropped":
            result.append((kind["done"], f"{kind['count']:,}: {kind['reason']}"))
            result += first_ones(problems, kind["reason"], kind["done"])
    if summary["unanswerable"]:
        result.append(("unanswerable", f"{summary['unanswerable']:,} questions"))
    if "features" not in summary:
        return result
    length, ceiling = summary["window_length"], summary["ceiling"]
    result += [
        ("features", f"{summary['features']:,} windows"),
        ("window length", f"mean {length['mean']:.1f}, 95 % up to {length['p95']}, longest {length['max']} tokens"),
    ]
    if name != "train":
        for reason, count in summary["answers_out_of_reach"].items():
            result.append(("out of reach", f"{count:,} answers: {reason}"))
    if summary["questions_cut"]:
        result.append(("questions cut", f"{summary['questions_cut']:,} were longer than max_query_length"))
    exact = ceiling["exact_match"] if "exact_match" in ceiling else ceiling["exact"]
    result.append(("labels", f"decoded back to text reach F1 {summary['label_f1']:.2f}"))
    result.append(("ceiling", f"perfect logits score EM {exact:.2f}, F1 {ceiling['f1']:.2f}"))
    return result


def first_ones(problems: Iterable[Problem], reason: str, done: str) -> list[tuple[str, str]]:
    """Rows with place, id and detail of the first problems of one kind, 80 columns wide."""
    kind = [problem for problem in problems if (problem.reason, problem.done) == (reason, done)]
    lines = []
    for problem in kind[:SHOWN]:
        where = PLACE.fullmatch(problem.place)
        key = f" (id {problem.id!r:.40})" if problem.id else ""
        said = f"{where[1].strip() if where else problem.place}{key}: {problem.detail}"
        lines += textwrap.wrap(said, 61, initial_indent="- ", subsequent_indent="  ", max_lines=4, placeholder=" ...")
    return [("", line) for line in lines]


def write_problems(path: Path, problems: dict[str, list[Problem]]) -> None:
    """Every problem of every split, one JSON object on each line."""
    lines = (
        json.dumps({"split": name} | dataclasses.asdict(problem), ensure_ascii=False)
        for name, found in problems.items()
        for problem in found
    )
    write_text(path, "".join(f"{line}\n" for line in lines))


def main() -> None:
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingOptions),
        default_config=REPOSITORY / "config.yaml",
        description=__doc__,
    )
    if data_args.demo_dir:
        write_demo(data_args.demo_dir)
    tokenizer = load_tokenizer(model_args)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, None)
    has_unanswerable, strict = data_args.version_2_with_negative, data_args.strict
    data_args.strict = False  # the report is finished first
    splits = read_splits(data_args, ("train", "validation"), args.seed, model_args.cache_dir)
    if not splits:
        raise UserError("no questions: give --train_file, --validation_file or --dataset_name")
    output = make_folder(args.output_dir)
    problems = {name: split.problems for name, split in splits.items()}
    write_problems(output / PROBLEMS, problems)  # whatever becomes of the windows

    summary, stops, fatal = {}, [], []
    for name, split in splits.items():
        unused = {}
        if len(split.examples):
            windows = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, name)
            overview = WindowStatistics.from_windows(split.examples, windows, data_args)
            unused = overview.unreachable if name == "train" else {}
            problems[name] = split.problems + unreachable_problems(split, unused)
            summary[name] = summarize(split, unused, overview, windows)
            if summary[name]["label_f1"] < LOWEST_LABEL_F1:
                stops.append(f"the labels of the {name} split do not decode back to the answers")
        else:
            summary[name] = count_questions(split, unused)
        try:
            require_usable(split, data_args, has_unanswerable)
            if name == "train":
                check_dropped(split, unused, data_args)
        except UserError as error:
            (stops if len(split.examples) else fatal).append(str(error))
    if leaked := describe_leak(splits):
        summary["validation"]["contexts_in_training"] = leaked[0]
    write_problems(output / PROBLEMS, problems)
    write_json(output / SUMMARY, summary)

    for name in splits:
        print(table(rows(name, summary[name], problems[name])) + "\n")
    if leaked:
        print(f"warning: {leaked[1]}")
    for stop in stops:
        print(f"warning: train.py or evaluate_qa.py would stop: {stop}")
    print(f"written to {output / SUMMARY} and {PROBLEMS}")
    if fatal:
        raise UserError("; ".join(fatal))
    found = [f"{problem.place}: {problem.detail}" for each in problems.values() for problem in each]
    found += [leaked[1]] if leaked else []
    if strict and found:
        raise UserError(f"{len(found):,} problems, and strict allows none: {output / PROBLEMS}; the first: {found[0]}")


if __name__ == "__main__":
    run_command(main)

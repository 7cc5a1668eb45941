"""Check data, cut them into windows and summarize both: what preprocess.py does."""

from qa.data.demo import write_demo
from qa.data.splits import describe_leak, has_unanswerable, read_splits
from qa.data.windows import WindowSettings, check_lengths
from qa.evaluation.data_report import inspect_split, print_reports, write_problems
from qa.io.files import check_writable, make_folder, write_json
from qa.io.run_folder import PROBLEMS, SUMMARY
from qa.model.tokenizer import NULL_ANSWERS_ADVICE, check_null_answers, load_tokenizer
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.parser import parse_arguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import count
from qa.runtime.errors import UserError
from qa.runtime.process import configure_process


def preprocess(argv: list[str], description: str) -> None:
    """Check the data that a command line names, and write a summary and all problems.

    Raises:
        UserError: the data cannot be used, or have problems and ``strict`` allows none.
    """
    configure_process()
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingOptions),
        argv,
        default_config=REPOSITORY / "config.yaml",
        description=description,
    )
    check_writable(output_dir=args.output_dir, cache_dir=model_args.cache_dir)
    if data_args.demo_dir:
        write_demo(data_args.demo_dir)
    tokenizer = load_tokenizer(model_args)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, None)
    splits = read_splits(data_args, ("train", "validation"), args.seed, model_args.cache_dir)
    if not splits:
        raise UserError("no questions: give --train_file, --validation_file or --dataset_name")
    if unanswerable := has_unanswerable(data_args, splits.values()):
        check_null_answers(tokenizer, NULL_ANSWERS_ADVICE)
    output = make_folder(args.output_dir)
    write_problems(output / PROBLEMS, {name: split.problems for name, split in splits.items()})

    reports = {
        name: inspect_split(split, tokenizer, data_args, model_args.cache_dir, unanswerable)
        for name, split in splits.items()
    }
    if leak := describe_leak(splits):
        reports["validation"].summary["contexts_in_training"] = leak[0]
    problems = {name: report.problems for name, report in reports.items()}
    write_problems(output / PROBLEMS, problems)
    write_json(output / SUMMARY, {name: report.summary for name, report in reports.items()})

    print_reports(reports, leak[1] if leak else None)
    print(f"written to {output / SUMMARY} and {PROBLEMS}")
    if unusable := [line for report in reports.values() if not report.usable for line in report.blockers]:
        raise UserError("; ".join(unusable))
    found = [f"{problem.place}: {problem.detail}" for each in problems.values() for problem in each]
    found += [leak[1]] if leak else []
    if data_args.strict and found:
        raise UserError(
            f"{count(len(found), 'problem')}, and strict allows none: {output / PROBLEMS}; the first: {found[0]}"
        )

"""Read SQuAD-format data, check it, cut it into windows, and say what came out.

Examples:
    python preprocess.py                                                      # the data of config.yaml
    python preprocess.py --tokenizer_name albert/albert-base-v2 --train_file my.json --output_dir checked
"""

from qa.arguments import REPOSITORY, DataArguments, ModelArguments, TrainingOptions
from qa.data import load_splits
from qa.demo import write_demo
from qa.errors import UserError, run_command
from qa.evaluation import Evaluator
from qa.models import load_tokenizer
from qa.output import make_folder, table, write_json
from qa.parsing import parse_arguments
from qa.summary import LOWEST_LABEL_F1, summarize
from qa.window_cache import load_windows
from qa.windows import WindowArrays, WindowSettings, check_lengths


def rows(name: str, summary: dict) -> list[tuple[str, object]]:
    """The table of one split."""
    length, ceiling = summary["window_length"], summary["ceiling"]
    result: list[tuple[str, object]] = [
        (name, f"{summary['read']:,} questions read"),
        ("examples", f"{summary['examples']:,} used, {summary['dropped']:,} dropped, {summary['repaired']:,} repaired"),
        ("features", f"{summary['features']:,} windows"),
        ("window length", f"mean {length['mean']:.1f}, 95 % up to {length['p95']}, longest {length['max']} tokens"),
    ]
    for reason, count in summary["dropped_because"].items():
        result.append(("dropped", f"{count:,}: {reason}"))
    if name != "train":
        for reason, count in summary["answers_out_of_reach"].items():
            result.append(("out of reach", f"{count:,} answers: {reason}"))
    if summary["unanswerable"]:
        result.append(("unanswerable", f"{summary['unanswerable']:,} questions"))
    if summary["questions_cut"]:
        result.append(("questions cut", f"{summary['questions_cut']:,} were longer than max_query_length"))
    exact = ceiling["exact_match"] if "exact_match" in ceiling else ceiling["exact"]
    result.append(("labels", f"decoded back to text reach F1 {summary['label_f1']:.2f}"))
    result.append(("ceiling", f"perfect logits score EM {exact:.2f}, F1 {ceiling['f1']:.2f}"))
    return result


def main() -> None:
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingOptions),
        default_config=REPOSITORY / "config.yaml",
        description=__doc__,
    )
    if data_args.demo_dir:
        write_demo(data_args.demo_dir)
    tokenizer = load_tokenizer(model_args)
    check_lengths(WindowSettings.of(data_args), tokenizer, None)
    splits = load_splits(data_args, ("train", "validation"), args.seed, model_args.cache_dir)
    if not splits:
        raise UserError("no questions: give --train_file, --validation_file or --dataset_name")
    summary = {}
    for name, split in splits.items():
        windows = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, name)
        arrays = WindowArrays.of(windows)
        evaluator = Evaluator(split.examples, arrays, data_args)
        summary[name] = summarize(split, windows, arrays, evaluator)
    output = make_folder(args.output_dir)
    write_json(output / "summary.json", summary)
    for name in splits:
        print(table(rows(name, summary[name])) + "\n")
    print(f"written to {output / 'summary.json'}")
    for name in splits:
        if summary[name]["label_f1"] < LOWEST_LABEL_F1:
            print(f"warning: training on the {name} split would stop: its labels do not decode back to the answers")


if __name__ == "__main__":
    run_command(main)

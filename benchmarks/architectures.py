"""Train, evaluate, resume and ask a tiny random checkpoint of every architecture with a question-answering head.

    nice python benchmarks/architectures.py                # all of them, into docs/architectures.md
    python benchmarks/architectures.py --only fnet,t5      # some of them, only printed

Each is built by ``tests/helpers/architectures.py`` and run through the commands: three epochs; the kept model evaluated
again in batches of 8 and of 1; the same training interrupted and resumed; one question.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for such small models a second thread is slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import transformers
from helpers.architecture_runs import Outcome, check_architecture
from helpers.architectures import ARCHITECTURES, write_data

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"


def write_page(outcomes: list[Outcome]) -> None:
    """Replace the table of the page, and leave what precedes it."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition("## The table\n")
    counts = ", ".join(f"{count} {result}" for result, count in Counter(each.result for each in outcomes).most_common())
    lines = ["", f"transformers {transformers.__version__}: {counts}.", ""]
    lines += ["| architecture | tokenizer | result | notes |", "|---|---|---|---|", *map(str, outcomes)]
    PAGE.write_text(head + mark + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="model types, separated by commas; their rows are printed, no page is written")
    parser.add_argument("--verbose", action="store_true", help="print what the commands printed, where one failed")
    args = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data")
        for kind in args.only.split(",") if args.only else ARCHITECTURES:
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=folder) as own:
                outcome = check_architecture(kind, data, Path(own))
            print(outcome, f"{time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
            if args.verbose and outcome.result == "failed":
                print(outcome.output, file=sys.stderr)
            outcomes.append(outcome)
    if not args.only:
        write_page(outcomes)


if __name__ == "__main__":
    main()

"""Time to make windows, over the time that the tokenizer alone needs for the same pairs.

    python benchmarks/windows.py --tokenizer_name albert/albert-base-v2 --validation_file dev-v1.1.json --rounds 5

The tokenizer alone is called on pairs of question and context, in the same batches of 1,000 and with the same lengths,
and returns its lists of ids and offsets. Both take turns in one process with the same threads (TOKENIZERS_PARALLELISM,
RAYON_NUM_THREADS). The output has medians over the rounds, with the lowest and the highest, and the ratio per round.
The last line is for ``Dataset.map``, which also reads the examples and writes the windows to disk.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qa.data.make_windows import make_windows
from qa.data.splits import load_splits
from qa.data.window_cache import load_windows
from qa.data.windows import WindowSettings
from qa.options.arguments import DataArguments

BATCH = 1000  # examples, as Dataset.map passes them


def tokenizer_alone(batches: list[dict], tokenizer: PreTrainedTokenizerBase, settings: WindowSettings) -> None:
    for batch in batches:
        tokenizer(
            batch["question"],
            batch["context"],
            truncation="only_second",
            max_length=settings.max_seq_length,
            stride=settings.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )


def windows_alone(batches: list[dict], tokenizer: PreTrainedTokenizerBase, settings: WindowSettings) -> None:
    for batch in batches:
        make_windows(batch, list(range(len(batch["id"]))), tokenizer, settings)


def seconds(function: Callable, *args) -> float:
    begin = time.perf_counter()
    function(*args)
    return time.perf_counter() - begin


def compare(examples: Dataset, tokenizer: PreTrainedTokenizerBase, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the tokenizer alone and of making windows, in each round."""
    settings = WindowSettings()
    batches = [examples[begin : begin + BATCH] for begin in range(0, len(examples), BATCH)]
    batches = [{name: list(column) for name, column in batch.items()} for batch in batches]
    for function in (tokenizer_alone, windows_alone):
        function(batches[:1], tokenizer, settings)  # so that no round includes the preparation of the first call
    pairs = [
        (seconds(tokenizer_alone, batches, tokenizer, settings), seconds(windows_alone, batches, tokenizer, settings))
        for _ in range(rounds)
    ]
    alone, made = zip(*pairs, strict=True)
    return list(alone), list(made)


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):6.3f}{unit} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer_name", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name)
    data_args = DataArguments(validation_file=args.validation_file)
    examples = load_splits(data_args, ("validation",))["validation"].examples
    alone, made = compare(examples, tokenizer, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        mapped = seconds(load_windows, examples, tokenizer, data_args, folder, "validation")
    print(f"tokenizer alone  {spread(alone, ' s')}")
    print(f"windows          {spread(made, ' s')}")
    print(f"ratio            {spread([m / a for a, m in zip(alone, made, strict=True)], '')}")
    print(f"Dataset.map      {mapped:6.3f} s, the windows included")


if __name__ == "__main__":
    main()

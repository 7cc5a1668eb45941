"""Prepare the data of a run: read and check both splits, cut them into windows, and report dropped questions."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset

from qa.data.examples import Split
from qa.data.splits import has_unanswerable, load_splits, no_split
from qa.data.statistics import check_dropped, describe, is_reachable
from qa.data.window_cache import load_windows
from qa.data.windows import WindowArrays, column
from qa.evaluation.coverage import WindowStatistics, check_labels
from qa.model.tokenizer import NULL_ANSWERS_ADVICE, check_null_answers
from qa.options.arguments import DataArguments, ModelArguments
from qa.runtime.console import wrap
from qa.runtime.errors import UserError


@dataclass
class PreparedSplit:
    """The questions of one split, and their windows as a dataset on disk."""

    split: Split
    windows: Dataset

    @cached_property
    def arrays(self) -> WindowArrays:
        """The windows in memory: for validation, which needs all their offsets."""
        return WindowArrays.from_dataset(self.windows)


def prepare_splits(
    tokenizer, model_args: ModelArguments, data_args: DataArguments, seed: int
) -> dict[str, PreparedSplit]:
    """Read, check and cut both splits into windows, and print a line on each.

    Training questions whose complete answer is in no window are dropped.

    Raises:
        UserError: a split is missing or unusable, the tokenizer's offsets are wrong or it has no CLS token for null
            answers, or too many questions are dropped.
    """
    if data_args.train_file and not (data_args.validation_file or data_args.validation_split_percentage):
        raise no_split(data_args, "validation")  # before the training file is read
    splits = load_splits(data_args, ("train", "validation"), seed, model_args.cache_dir)
    as_squad_2 = has_unanswerable(data_args, splits.values())
    if as_squad_2:
        check_null_answers(tokenizer, NULL_ANSWERS_ADVICE)
    prepared: dict[str, PreparedSplit] = {}
    unreachable: dict[str, dict[int, str]] = {}
    for name in ("train", "validation"):
        if name not in splits:
            raise no_split(data_args, name)
        examples = splits[name].examples
        windows = load_windows(examples, tokenizer, data_args, model_args.cache_dir, name)
        statistics = WindowStatistics.from_windows(examples, windows)
        check_labels(name, statistics.label_f1)
        prepared[name] = PreparedSplit(splits[name], windows)
        unreachable[name] = statistics.unreachable if name == "train" else {}  # validation keeps and scores them
    train = prepared["train"]
    if unreachable["train"]:
        kept = is_reachable(column(train.windows, "example_index"), unreachable["train"])
        train.windows = train.windows.select(np.flatnonzero(kept))
    if not len(train.windows):
        raise UserError("no window contains any answer of the training split: raise max_seq_length")
    check_dropped(train.split, unreachable["train"], data_args.max_dropped, data_args.strict)
    for name, part in prepared.items():
        for line in describe(part.split, len(part.windows), unreachable[name], as_squad_2).splitlines():
            print(wrap(line, 4))
    return prepared

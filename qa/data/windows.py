"""Windows: their columns on disk, their arrays in memory, and the options that determine them.

A context longer than a window is split into several that share ``doc_stride`` tokens; each window contains
the special tokens, the question and a piece of the context (Devlin et al. 2018, section 4.2; the same windows as
Hugging Face's ``run_qa.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qa.options.arguments import DataArguments
from qa.runtime.console import count
from qa.runtime.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

WINDOW_FORMAT = 1  # part of the cache key: increment it whenever the content of windows changes
PART = 5_000  # examples whose windows are in memory together


def column(windows: "Dataset", name: str) -> np.ndarray:
    """Return a column of numbers (W,), without a Python object for each."""
    return windows.with_format("numpy")[name][:] if windows._indices is not None else windows.data[name].to_numpy()


@dataclass(frozen=True)
class WindowSettings:
    """The options that determine the windows, together with data and tokenizer."""

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    first_window_only: bool = False

    @classmethod
    def from_args(cls, args: DataArguments) -> "WindowSettings":
        return cls(args.max_seq_length, args.doc_stride, args.max_query_length, args.first_window_only)


@dataclass
class WindowArrays:
    """Windows as flat arrays; W windows, T context tokens in all, window by window.

    ``tokens[i]:tokens[i + 1]`` are the rows of ``offset_mapping`` (T, 2) that belong to window i.
    """

    example_index: np.ndarray  # (W,)
    length: np.ndarray  # (W,) tokens
    context_start: np.ndarray  # (W,)
    cls_index: np.ndarray  # (W,)
    start_positions: np.ndarray  # (W,)
    end_positions: np.ndarray  # (W,)
    offset_mapping: np.ndarray  # (T, 2) characters of the context
    tokens: np.ndarray  # (W + 1,)

    @classmethod
    def from_dataset(cls, windows: "Dataset") -> "WindowArrays":
        table = windows.with_format("arrow")[:] if windows._indices is not None else windows.data.table
        column = {
            name: table[name].to_numpy()
            for name in ("example_index", "length", "context_start", "cls_index", "start_positions", "end_positions")
        }
        offsets = table["offset_mapping"].combine_chunks()
        counts = offsets.value_lengths().to_numpy(zero_copy_only=False)
        flat = offsets.flatten().flatten().to_numpy().reshape(-1, 2)
        return cls(**column, offset_mapping=flat, tokens=np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self.length)

    @classmethod
    def parts(cls, examples: "Dataset", windows: "Dataset") -> Iterator[tuple[int, "Dataset", "WindowArrays"]]:
        """Yield the first row, the examples and their windows for ``PART`` examples at a time, which bounds the memory.

        ``example_index`` is relative to the first row of the part.
        """
        index = column(windows, "example_index")
        for first in range(0, len(examples), PART):
            last = min(first + PART, len(examples))
            begin, end = np.searchsorted(index, (first, last)).tolist()
            arrays = cls.from_dataset(windows.select(range(begin, end)))
            arrays.example_index = arrays.example_index - first
            yield first, examples.select(range(first, last)), arrays

    @property
    def labelled(self) -> np.ndarray:
        """(W,) whether the window contains the answer."""
        return self.start_positions != self.cls_index


def check_lengths(settings: WindowSettings, tokenizer: "PreTrainedTokenizerFast", model_limit: int | None) -> None:
    """Raise UserError for lengths that no question fits, before anything is tokenized."""
    limit = min(model_limit or 1 << 30, tokenizer.model_max_length)
    if settings.max_seq_length > limit:
        raise UserError(f"max_seq_length {settings.max_seq_length} is longer than the model supports; at most {limit}")
    room = settings.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True)
    if settings.doc_stride >= room - 1:
        raise UserError(
            f"doc_stride {settings.doc_stride} leaves no room: a window of max_seq_length {settings.max_seq_length}"
            f" has {count(max(room, 0), 'token')} for question and context; lower doc_stride or raise max_seq_length"
        )


def check_room(
    lengths: np.ndarray, names: Sequence[str], settings: WindowSettings, tokenizer: "PreTrainedTokenizerFast"
) -> None:
    """Raise UserError for a question that leaves the context no more room than ``doc_stride``.

    Args:
        lengths: (N,) tokens of each question. names: of the questions, for the message.
    """
    room = settings.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True) - int(lengths.max(initial=0))
    if settings.doc_stride >= room:
        worst = int(lengths.argmax())
        raise UserError(
            f"doc_stride {settings.doc_stride} leaves no room: question {names[worst]} has"
            f" {count(int(lengths[worst]), 'token')}, which leaves {max(room, 0)} of a window of"
            f" {settings.max_seq_length} for the context; lower"
            " doc_stride or max_query_length, or raise max_seq_length"
        )

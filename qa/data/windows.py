"""Examples to windows: one function for training and evaluation, labels from character offsets.

A context longer than a window is cut into several that share ``doc_stride`` tokens; each window holds
the special tokens, the question and a piece of the context. The labels are the first and the last token
that share a character with the answer, or the CLS token twice where the answer is not wholly in the window
(Devlin et al. 2018, section 4.2; the same windows as Hugging Face's ``run_qa.py``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

FEATURES = Features(
    {
        "example_index": Value("int64"),  # row of the window's example
        "input_ids": List(Value("int32")),
        "token_type_ids": List(Value("int8")),
        "offset_mapping": List(List(Value("int32"), length=2)),  # of the context tokens only, [start, end)
        "context_start": Value("int32"),  # position of the first context token
        "cls_index": Value("int32"),
        "start_positions": Value("int32"),
        "end_positions": Value("int32"),
        "question_cut": Value("bool"),
        "length": Value("int32"),
    }
)
WHITE_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])  # the highest one is U+3000


PART = 5_000  # examples whose windows are looked at together


def column(windows: Dataset, name: str) -> np.ndarray:
    """(W,) a column of numbers, without a Python object for each."""
    return windows.with_format("numpy")[name][:] if windows._indices is not None else windows.data[name].to_numpy()


@dataclass(frozen=True)
class WindowSettings:
    """All that decides, beside data and tokenizer, what the windows are."""

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
    def from_dataset(cls, windows: Dataset) -> "WindowArrays":
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
    def parts(cls, examples: Dataset, windows: Dataset) -> Iterator[tuple[int, Dataset, "WindowArrays"]]:
        """Yields the examples ``PART`` at a time with their windows, and the first one's row: no more is in memory.

        ``example_index`` counts from the first example of the part.
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
        """(W,) whether the window holds the answer."""
        return self.start_positions != self.cls_index


def context_first(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tokenizers that pad on the left (XLNet) were trained with the context before the question."""
    return tokenizer.padding_side == "left"


def check_lengths(settings: WindowSettings, tokenizer: PreTrainedTokenizerBase, model_limit: int | None) -> None:
    """Raises UserError for lengths that no question fits, before anything is tokenized."""
    limit = min(model_limit or 1 << 30, tokenizer.model_max_length)
    if settings.max_seq_length > limit:
        raise UserError(f"max_seq_length {settings.max_seq_length} is more than the model takes; at most {limit}")
    room = settings.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True)
    if settings.doc_stride >= room - 1:
        raise UserError(
            f"doc_stride {settings.doc_stride} leaves no room: a window of max_seq_length {settings.max_seq_length}"
            f" has {max(room, 0)} tokens for question and context; lower doc_stride or raise max_seq_length"
        )


def cut_questions(
    questions: list[str], tokenizer: PreTrainedTokenizerBase, max_query_length: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Cuts questions to ``max_query_length`` tokens.

    Returns:
        the questions, their lengths in tokens, and whether each was cut.
    """
    questions = list(questions)
    cut = np.zeros(len(questions), dtype=bool)
    lengths = np.zeros(len(questions), dtype=np.int64)
    pending = list(range(len(questions)))
    while pending:
        encoded = tokenizer(
            [questions[i] for i in pending], add_special_tokens=False, return_offsets_mapping=True, truncation=False
        )
        longer = []
        for i, ids, offsets in zip(pending, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            lengths[i] = len(ids)
            if len(ids) > max_query_length:
                end = offsets[max_query_length - 1][1]
                questions[i] = questions[i][: min(end, len(questions[i]) - 1)]
                cut[i] = True
                longer.append(i)
        pending = longer
    return questions, lengths, cut


def trim_white_space(offsets: np.ndarray, contexts: list[str], example: np.ndarray) -> np.ndarray:
    """Takes the white space off both ends of every token's characters.

    Tokenizers differ in whether a word's token begins on the space before it; answers must not.

    Args:
        offsets: (T, 2) characters. example: (T,) index into ``contexts`` of each token.
    """
    codes = np.frombuffer("".join(contexts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    space = np.append(WHITE_SPACE[np.minimum(codes, len(WHITE_SPACE) - 1)], False)
    base = np.concatenate([[0], np.cumsum([len(context) for context in contexts])])[example]
    start, end = offsets[:, 0] + base, offsets[:, 1] + base
    while (blank := space[start] & (start < end)).any():
        start = start + blank
    while (blank := space[end - 1] & (start < end)).any():
        end = end - blank
    return np.stack([start - base, end - base], axis=1).astype(np.int32)


def label(
    offsets: np.ndarray, tokens: np.ndarray, answers: np.ndarray, context_start: np.ndarray, cls_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end token of the answer in each window, the CLS token where it is not wholly there.

    Args:
        offsets: (T, 2) characters of the context tokens, window after window.
        tokens: (W + 1,) where each window's tokens begin in ``offsets``.
        answers: (W, 2) first character of the answer and the one after its last; -1 where there is none.
        context_start: (W,) position of the first context token. cls_index: (W,).
    """
    windows = len(tokens) - 1
    window = np.repeat(np.arange(windows), np.diff(tokens))
    begins, ends = answers[window, 0], answers[window, 1]
    shared = (offsets[:, 0] < ends) & (offsets[:, 1] > begins) & (begins >= 0)

    def at(mask: np.ndarray, last: bool) -> np.ndarray:
        """(W,) the first or last token of ``mask`` in each window, -1 where there is none."""
        hits = np.flatnonzero(mask)
        found = np.full(windows, -1)
        hits = hits if last else hits[::-1]
        found[window[hits]] = hits  # of repeated indices the last assignment stays
        return found

    first, last = at(shared, last=False), at(shared, last=True)
    # Several tokens can share one character: take the last that can begin the answer, the first that can end it.
    start, end = at(shared & (offsets[:, 0] <= begins), last=True), at(shared & (offsets[:, 1] >= ends), last=False)
    start, end = np.where(start < 0, first, start), np.where(end < 0, last, end)
    start, end = np.where(start > end, first, start), np.where(start > end, last, end)

    whole = first >= 0
    if len(offsets):
        head, tail = np.minimum(tokens[:-1], len(offsets) - 1), np.maximum(tokens[1:] - 1, 0)
        whole &= (offsets[head, 0] <= answers[:, 0]) & (offsets[tail, 1] >= answers[:, 1])
    shift = context_start - tokens[:-1]
    return np.where(whole, start + shift, cls_index), np.where(whole, end + shift, cls_index)


def first_answer(answers: dict) -> tuple[int, int]:
    """First character of the first answer and the one after its last, without white space; -1 if it has no place."""
    if not answers["text"] or answers["answer_start"][0] < 0:
        return -1, -1
    text, start = answers["text"][0], answers["answer_start"][0]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def make_windows(
    examples: dict[str, list], indices: list[int], tokenizer: PreTrainedTokenizerBase, settings: WindowSettings
) -> pa.Table:
    """Tokenizes a batch of examples into windows, in order; columns as in ``FEATURES``.

    Raises:
        UserError: a question that leaves the context no more room than ``doc_stride``.
    """
    questions, lengths, cut = cut_questions(examples["question"], tokenizer, settings.max_query_length)
    room = settings.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True) - int(lengths.max(initial=0))
    if settings.doc_stride >= room:
        worst = int(lengths.argmax())
        raise UserError(
            f"doc_stride {settings.doc_stride} leaves no room: question {examples['id'][worst]} has {lengths[worst]}"
            f" tokens, which leaves {max(room, 0)} of a window of {settings.max_seq_length} for the context; lower"
            " doc_stride or max_query_length, or raise max_seq_length"
        )
    contexts, swap = list(examples["context"]), context_first(tokenizer)
    encoded = tokenizer(
        contexts if swap else questions,
        questions if swap else contexts,
        truncation="only_first" if swap else "only_second",
        max_length=settings.max_seq_length,
        stride=settings.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sample = np.asarray(encoded["overflow_to_sample_mapping"])
    encodings = encoded.encodings
    if settings.first_window_only:
        kept = np.flatnonzero(np.diff(sample, prepend=-1))
        sample, encodings = sample[kept], [encodings[i] for i in kept]

    context_start, offsets = [], []
    for encoding in encodings:
        sequence = encoding.sequence_ids
        begin, size = (sequence.index(1 - swap), sequence.count(1 - swap)) if 1 - swap in sequence else (0, 0)
        context_start.append(begin)
        offsets.append(encoding.offsets[begin : begin + size])
    tokens = np.concatenate([[0], np.cumsum([len(part) for part in offsets])]).astype(np.int64)
    flat = np.array([pair for part in offsets for pair in part], dtype=np.int64).reshape(-1, 2)
    flat = trim_white_space(flat, contexts, np.repeat(sample, np.diff(tokens)))

    length = np.array([len(encoding.ids) for encoding in encodings])
    cls_index = length - 1 if swap else np.zeros_like(length)
    answers = np.array([first_answer(answers) for answers in examples["answers"]])
    start, end = label(flat, tokens, answers[sample], np.array(context_start), cls_index)
    ends = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)

    def ragged(parts: Iterable[list[int]], dtype: type) -> pa.ListArray:
        return pa.ListArray.from_arrays(ends, np.concatenate([np.array(part, dtype) for part in parts]))

    return pa.table(
        {
            "example_index": np.asarray(indices, dtype=np.int64)[sample],
            "input_ids": ragged((encoding.ids for encoding in encodings), np.int32),
            "token_type_ids": ragged((encoding.type_ids for encoding in encodings), np.int8),
            "offset_mapping": pa.ListArray.from_arrays(
                tokens.astype(np.int32), pa.FixedSizeListArray.from_arrays(flat.reshape(-1), 2)
            ),
            "context_start": np.array(context_start, dtype=np.int32),
            "cls_index": cls_index.astype(np.int32),
            "start_positions": start.astype(np.int32),
            "end_positions": end.astype(np.int32),
            "question_cut": cut[sample],
            "length": length.astype(np.int32),
        }
    )

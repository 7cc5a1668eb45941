"""Cut examples into labelled windows; the same for training, evaluation and single questions.

Each text of a batch is tokenized once and the windows are assembled from these tokens, if that gives the same result
as tokenizing the pairs; otherwise the pairs are tokenized.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from qa.data.labels import first_answer, label
from qa.data.tokenized_text import (
    SpecialTokenTemplate,
    TokenizedTexts,
    context_first,
    cut_questions,
    tokenize_contexts,
    trim_white_space,
    unchanged_backend,
)
from qa.data.windows import WindowArrays, WindowSettings, check_room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Texts that reveal whether a tokenizer treats a pair like its two parts: empty, spaces at either end and within, line
# breaks, an emoji of several characters, combining marks, right to left, no spaces, a byte-order mark.
PROBES = (
    *("", " ", "a", "a b"),
    "  Two spaces  before,\tand after. \n\n It's 3.5% of “x”…  ",
    "\ufeffe\u0301tat 👩\u200d👧 ﬁn שלום 川はきた\u3000x\x00y",
)


@dataclass
class TokenizedWindows(WindowArrays):
    """Windows with their L tokens in all, window by window; unlabelled: every label is the CLS token."""

    input_ids: np.ndarray  # (L,) int32
    token_type_ids: np.ndarray  # (L,) int8
    context_token: np.ndarray | None  # (T,) index into the tokens of the contexts; None if pairs were tokenized

    def rows(self) -> list[dict[str, np.ndarray]]:
        """Return ``input_ids`` and ``token_type_ids`` of each window."""
        ends = np.cumsum(self.length)[:-1]
        pairs = zip(np.split(self.input_ids, ends), np.split(self.token_type_ids, ends), strict=True)
        return [{"input_ids": ids, "token_type_ids": kinds} for ids, kinds in pairs]


def ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return ``count[0]`` integers from ``start[0]`` on, then ``count[1]`` from ``start[1]`` on, and so on."""
    ends = np.cumsum(count)
    return np.arange(count.sum()) + np.repeat(start - ends + count, count)


def place_windows(
    question_length: np.ndarray, context_length: np.ndarray, special: int, settings: WindowSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose the piece of the context in each window, like a tokenizer's truncation with a stride.

    Args:
        question_length, context_length: (N,) tokens of each example. special: special tokens in a window.

    Returns:
        (W,) the example, the piece's first token in its context, and how many tokens it has.
    """
    room = settings.max_seq_length - special - question_length
    step = room - settings.doc_stride
    count = np.maximum(-((settings.doc_stride - context_length) // step), 1)
    if settings.first_window_only:
        count = np.ones_like(count)
    example = np.repeat(np.arange(len(count)), count)
    begin = step[example] * ranges(np.zeros_like(count), count)
    return example, begin, np.minimum(context_length[example] - begin, room[example])


def join_parts(
    questions: TokenizedTexts,
    contexts: TokenizedTexts,
    context_of: np.ndarray,
    template: SpecialTokenTemplate,
    settings: WindowSettings,
) -> TokenizedWindows:
    """Assemble the windows of N questions from the tokens of questions and contexts.

    Args:
        context_of: (N,) index of each question's context.
    """
    sizes, placed = questions.lengths, contexts.lengths[context_of]
    example, begin, count = place_windows(sizes, placed, len(template.ids), settings)
    begin = begin + contexts.bounds[context_of[example]]
    # Every window is five runs of these tokens: special ones, one text, special ones, the other text, special ones.
    ids = np.concatenate([questions.ids, contexts.ids, template.ids])
    kinds = np.full(len(ids), template.question_type, dtype=np.int8)
    kinds[len(questions.ids) :] = template.context_type
    kinds[len(ids) - len(template.ids) :] = template.types

    runs = [(questions.bounds[example], sizes[example]), (len(questions.ids) + begin, count)]
    if template.context_first:
        runs.reverse()
    special = len(ids) - len(template.ids) + np.array([0, *np.cumsum(template.sizes)])
    for place, (first, size) in zip((0, 2, 4), zip(special, template.sizes, strict=False), strict=True):
        runs.insert(place, (np.full_like(example, first), np.full_like(example, size)))
    starts, lengths = (np.stack(part, axis=1) for part in zip(*runs, strict=True))
    tokens = ranges(starts.ravel(), lengths.ravel())
    context_token = ranges(begin, count)
    context_start = lengths[:, : 1 if template.context_first else 3].sum(axis=1)
    return unlabelled(
        template.context_first,
        example_index=example,
        length=lengths.sum(axis=1),
        context_start=np.where(count > 0, context_start, 0),
        offset_mapping=contexts.offsets[context_token],
        tokens=np.concatenate([[0], np.cumsum(count)]),
        input_ids=ids[tokens],
        token_type_ids=kinds[tokens],
        context_token=context_token,
    )


def unlabelled(cls_last: bool, *, length: np.ndarray, **columns) -> TokenizedWindows:
    """Return windows whose labels are their CLS tokens, which are the first ones or the last."""
    cls_index = length - 1 if cls_last else np.zeros_like(length)
    labels = {"cls_index": cls_index, "start_positions": cls_index, "end_positions": cls_index}
    return TokenizedWindows(length=length, **labels, **columns)


def tokenize_pairs(
    questions: Sequence[str], contexts: Sequence[str], tokenizer: "PreTrainedTokenizerFast", settings: WindowSettings
) -> TokenizedWindows:
    """Return the windows of N questions and their contexts, with the pairs tokenized by the tokenizer itself."""
    swap = context_first(tokenizer)
    first, second = (contexts, questions) if swap else (questions, contexts)
    with unchanged_backend(tokenizer):
        encoded = tokenizer(
            list(first),
            list(second),
            truncation="only_first" if swap else "only_second",
            max_length=settings.max_seq_length,
            stride=settings.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    example, encodings = np.array(encoded["overflow_to_sample_mapping"]), encoded.encodings or []
    if settings.first_window_only:
        kept = np.flatnonzero(np.diff(example, prepend=-1))
        example, encodings = example[kept], [encodings[i] for i in kept]
    starts, offsets = [], []
    for encoding in encodings:
        part = np.array([number == 1 - swap for number in encoding.sequence_ids], dtype=bool)
        starts.append(int(part.argmax()))
        offsets.append(np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)[part])
    counts = np.array([len(part) for part in offsets])
    return unlabelled(
        swap,
        example_index=example,
        length=np.array([len(encoding) for encoding in encodings]),
        context_start=np.array(starts),
        offset_mapping=trim_white_space(np.concatenate(offsets), contexts, np.repeat(example, counts)),
        tokens=np.concatenate([[0], np.cumsum(counts)]),
        input_ids=np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings]),
        token_type_ids=np.concatenate([np.array(encoding.type_ids, dtype=np.int8) for encoding in encodings]),
        context_token=None,
    )


def join_texts(
    questions: TokenizedTexts,
    contexts: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    template: SpecialTokenTemplate,
    settings: WindowSettings,
) -> TokenizedWindows:
    """Tokenize each distinct context once and join it with its questions; ``contexts`` has one entry per question."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(contexts))}
    context_of = np.array([rows[text] for text in contexts], dtype=np.int64)
    return join_parts(questions, tokenize_contexts(list(rows), tokenizer), context_of, template, settings)


@lru_cache(maxsize=4)
def joining_template(tokenizer: "PreTrainedTokenizerFast") -> SpecialTokenTemplate | None:
    """Return the template that joins a question and a context; None if a pair's tokens are not those of its parts.

    Decided by comparing both ways on ``PROBES``, untruncated and in windows that begin at every token.
    """
    template = SpecialTokenTemplate.from_tokenizer(tokenizer)
    if template is None:
        return None
    pairs = [(question, context) for question in ("a", PROBES[-2]) for context in PROBES]
    texts, contexts = (list(part) for part in zip(*pairs, strict=True))
    _, questions, _ = cut_questions(texts, tokenizer, 1 << 30)
    longest = int(questions.lengths.max()) + len(template.ids)
    for settings in (WindowSettings(longest + 1000, 0), WindowSettings(longest + 4, 3)):
        joined = join_texts(questions, contexts, tokenizer, template, settings)
        whole = tokenize_pairs(texts, contexts, tokenizer, settings)
        names = {field.name for field in fields(TokenizedWindows)} - {"context_token"}
        if not all(np.array_equal(getattr(joined, name), getattr(whole, name)) for name in names):
            return None
    return template


def make_windows(
    examples: dict[str, list], indices: list[int], tokenizer: "PreTrainedTokenizerFast", settings: WindowSettings
) -> pa.Table:
    """Cut a batch of examples into windows, in order; columns as in ``FEATURES``.

    Raises:
        UserError: a question that leaves the context no more room than ``doc_stride``.
    """
    texts, questions, cut = cut_questions(examples["question"], tokenizer, settings.max_query_length)
    check_room(questions.lengths, examples["id"], settings, tokenizer)
    contexts, template = list(examples["context"]), joining_template(tokenizer)
    if template:
        windows = join_texts(questions, contexts, tokenizer, template, settings)
    else:
        windows = tokenize_pairs(texts, contexts, tokenizer, settings)
    example = windows.example_index
    answers = np.array([first_answer(answers) for answers in examples["answers"]])
    start, end = label(
        windows.offset_mapping, windows.tokens, answers[example], windows.context_start, windows.cls_index
    )
    bounds = np.concatenate([[0], np.cumsum(windows.length)]).astype(np.int32)
    pairs = pa.FixedSizeListArray.from_arrays(windows.offset_mapping.reshape(-1), 2)
    return pa.table(
        {
            "example_index": np.asarray(indices, dtype=np.int64)[example],
            "input_ids": pa.ListArray.from_arrays(bounds, windows.input_ids),
            "token_type_ids": pa.ListArray.from_arrays(bounds, windows.token_type_ids),
            "offset_mapping": pa.ListArray.from_arrays(windows.tokens.astype(np.int32), pairs),
            "context_start": windows.context_start.astype(np.int32),
            "cls_index": windows.cls_index.astype(np.int32),
            "start_positions": start.astype(np.int32),
            "end_positions": end.astype(np.int32),
            "question_cut": cut[example],
            "length": windows.length.astype(np.int32),
        }
    )

"""A text tokenized once, and the windows that any number of questions make of it.

The windows are those of ``make_windows``; here the context's tokens are kept, so that another question
about the same text costs the question's own tokens only.
"""

import re
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from qa.data.checks import broken_character
from qa.data.windows import WindowArrays, WindowSettings, context_first, trim_white_space
from qa.runtime.errors import UserError

# Scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Han): what a tokenizer calls a word there
# can be a whole sentence.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def check_text(name: str, text: str) -> None:
    if found := broken_character(text):
        raise UserError(f"the {name} has {found}: it is not valid Unicode")


@dataclass(frozen=True)
class TokenizedContext:
    """A context of T tokens."""

    text: str
    ids: np.ndarray  # (T,) int32
    offsets: np.ndarray  # (T, 2) characters of each token, half-open, without white space at its ends
    words: np.ndarray  # (T, 2) characters of the word that each token belongs to

    @classmethod
    def from_text(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> "TokenizedContext":
        check_text("context", text)
        encoding = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).encodings[0]
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        offsets = trim_white_space(offsets, [text], np.zeros(len(ids), dtype=np.int64))
        return cls(text, ids, offsets, whole_words(text, offsets, encoding.word_ids))


def whole_words(text: str, offsets: np.ndarray, word_ids: list[int | None]) -> np.ndarray:
    """(T, 2) from the first character of each token's word to its last; the token's own where there are no words."""
    word = np.array([-1 if number is None else number for number in word_ids], dtype=np.int64)
    if not len(word):
        return offsets
    first = np.flatnonzero(np.diff(word, prepend=-2))
    counts = np.diff(np.append(first, len(word)))
    begin, end = offsets[first, 0], offsets[first + counts - 1, 1]
    words = np.stack([np.repeat(begin, counts), np.repeat(end, counts)], axis=1)
    own = word < 0
    for number in np.flatnonzero(counts > 1):
        if UNSPACED.search(text, begin[number], end[number]):
            own[first[number] : first[number] + counts[number]] = True
    return np.where(own[:, None], offsets, words)


@dataclass(frozen=True)
class SpecialTokenTemplate:
    """What a tokenizer puts around a question and a context: special tokens and token types."""

    ids: tuple[np.ndarray, np.ndarray, np.ndarray]  # before, between and after the two
    types: tuple[np.ndarray, np.ndarray, np.ndarray]
    question_type: int
    context_type: int
    context_first: bool

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokenTemplate":
        encoding = tokenizer("a", "a").encodings[0]
        sequence = np.array([-1 if number is None else number for number in encoding.sequence_ids])
        first, second = np.flatnonzero(sequence == 0), np.flatnonzero(sequence == 1)
        parts = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None)
        ids, types = np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.int8)
        question, context = types[first[0]], types[second[0]]
        swap = context_first(tokenizer)
        if swap:
            question, context = context, question
        return cls(tuple(ids[p] for p in parts), tuple(types[p] for p in parts), int(question), int(context), swap)

    @property
    def special(self) -> int:
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class QuestionWindows:
    """The W windows that one question makes of a document."""

    question: np.ndarray  # (Q,) ids
    document: TokenizedContext
    frame: SpecialTokenTemplate
    begin: np.ndarray  # (W,) first token of the document in each window
    count: np.ndarray  # (W,) tokens of the document in each window

    @classmethod
    def from_parts(
        cls, question: np.ndarray, document: TokenizedContext, frame: SpecialTokenTemplate, settings: WindowSettings
    ) -> "QuestionWindows":
        """Raises UserError for a question that leaves the context no more room than ``doc_stride``."""
        total, room = len(document.ids), settings.max_seq_length - frame.special - len(question)
        step = room - settings.doc_stride
        if step < 1:
            raise UserError(
                f"a window of {settings.max_seq_length} tokens is too short: a question of {len(question)} tokens"
                f" leaves {max(room, 0)} for the context, and neighbours share {settings.doc_stride}; lower doc_stride"
                " or the question's length, or raise the window's"
            )
        begin = np.arange(0, max(total - settings.doc_stride, 1), step)
        if settings.first_window_only:
            begin = begin[:1]
        return cls(question, document, frame, begin, np.minimum(total - begin, room))

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def length(self) -> np.ndarray:
        """(W,) tokens."""
        return self.count + self.frame.special + len(self.question)

    @property
    def context_start(self) -> int:
        """Position of the first context token, the same in every window."""
        before, between, _ = self.frame.ids
        return len(before) if self.frame.context_first else len(before) + len(self.question) + len(between)

    @property
    def cls_index(self) -> np.ndarray:
        return self.length - 1 if self.frame.context_first else np.zeros_like(self.begin)

    def row(self, index: int) -> dict[str, np.ndarray]:
        """``input_ids`` and ``token_type_ids`` of one window."""
        context = self.document.ids[self.begin[index] : self.begin[index] + self.count[index]]
        pair = [(self.question, self.frame.question_type), (context, self.frame.context_type)]
        if self.frame.context_first:
            pair.reverse()
        (first, first_type), (second, second_type) = pair
        before, between, after = self.frame.ids
        ids = np.concatenate([before, first, between, second, after])
        kinds = np.full(len(first), first_type), np.full(len(second), second_type)
        before, between, after = self.frame.types
        return {"input_ids": ids, "token_type_ids": np.concatenate([before, kinds[0], between, kinds[1], after])}

    def arrays(self) -> WindowArrays:
        """The windows as ``search`` takes them, all of example 0, without labels."""
        none = np.zeros(len(self), dtype=np.int64)
        parts = [self.document.offsets[b : b + c] for b, c in zip(self.begin, self.count, strict=True)]
        return WindowArrays(
            example_index=none,
            length=self.length,
            context_start=np.full(len(self), self.context_start),
            cls_index=self.cls_index,
            start_positions=self.cls_index,
            end_positions=self.cls_index,
            offset_mapping=np.concatenate(parts),
            tokens=np.concatenate([[0], np.cumsum(self.count)]),
        )

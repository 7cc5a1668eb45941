"""Tokenize each text once, without the special tokens that a pair adds around it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer

from qa.data.checks import broken_character
from qa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WHITE_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])  # the highest one is U+3000
# Scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Han): there, a tokenizer's word can be a
# whole sentence.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@contextmanager
def unchanged_backend(tokenizer: "PreTrainedTokenizerFast") -> Iterator[Tokenizer]:
    """Yield the backend without truncation and padding, and restore both afterwards."""
    backend = tokenizer.backend_tokenizer
    truncation, padding, special = backend.truncation, backend.padding, backend.encode_special_tokens
    try:
        if truncation is not None:
            backend.no_truncation()
        if padding is not None:
            backend.no_padding()
        if special != tokenizer.split_special_tokens:
            backend.encode_special_tokens = tokenizer.split_special_tokens
        yield backend
    finally:
        if backend.truncation != truncation:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        if backend.padding != padding:
            backend.no_padding() if padding is None else backend.enable_padding(**padding)
        if backend.encode_special_tokens != special:
            backend.encode_special_tokens = special


def encode(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[Encoding]:
    """Return the encoding of each text: all its tokens, no special ones."""
    with unchanged_backend(tokenizer) as backend:
        return backend.encode_batch(texts, add_special_tokens=False)


@dataclass(frozen=True)
class TokenizedTexts:
    """N texts of T tokens in all, text after text."""

    ids: np.ndarray  # (T,) int32
    offsets: np.ndarray  # (T, 2) int32 characters of each token in its text, [start, end)
    bounds: np.ndarray  # (N + 1,) text i has the tokens bounds[i]:bounds[i + 1]

    @classmethod
    def from_encodings(cls, encodings: Sequence[Encoding]) -> "TokenizedTexts":
        bounds = np.cumsum([0, *map(len, encodings)])
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        offsets = chain.from_iterable(chain.from_iterable(encoding.offsets) for encoding in encodings)
        total = int(bounds[-1])
        return cls(np.fromiter(ids, np.int32, total), np.fromiter(offsets, np.int32, 2 * total).reshape(-1, 2), bounds)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each text."""
        return np.diff(self.bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def select(self, index: int) -> "TokenizedTexts":
        """Return text ``index`` alone."""
        part = slice(self.bounds[index], self.bounds[index + 1])
        return TokenizedTexts(self.ids[part], self.offsets[part], self.bounds[index : index + 2] - part.start)


def cut_questions(
    questions: Sequence[str], tokenizer: "PreTrainedTokenizerFast", max_query_length: int
) -> tuple[list[str], TokenizedTexts, np.ndarray]:
    """Truncate N questions to ``max_query_length`` tokens.

    Returns:
        the questions, their tokens, and (N,) whether each was truncated.
    """
    questions, cut = list(questions), np.zeros(len(questions), dtype=bool)
    encodings = encode(questions, tokenizer)
    longer = [i for i, encoding in enumerate(encodings) if len(encoding) > max_query_length]
    while longer:  # a shortened text can have other tokens at its end
        cut[longer] = True
        for i in longer:
            end = encodings[i].offsets[max_query_length - 1][1]
            questions[i] = questions[i][: min(end, len(questions[i]) - 1)]
        for i, encoding in zip(longer, encode([questions[i] for i in longer], tokenizer), strict=True):
            encodings[i] = encoding
        longer = [i for i in longer if len(encodings[i]) > max_query_length]
    return questions, TokenizedTexts.from_encodings(encodings), cut


def trim_white_space(offsets: np.ndarray, texts: Sequence[str], text_of: np.ndarray) -> np.ndarray:
    """Take the white space off both ends of every token's characters.

    Tokenizers differ in whether a word's token begins on the space before it; answers must not.

    Args:
        offsets: (T, 2) characters. text_of: (T,) index into ``texts`` of each token.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    space = np.append(WHITE_SPACE[np.minimum(codes, len(WHITE_SPACE) - 1)], False)
    base = np.cumsum([0, *map(len, texts)])[text_of]
    start, end = offsets[:, 0] + base, offsets[:, 1] + base
    while (blank := space[start] & (start < end)).any():
        start = start + blank
    while (blank := space[end - 1] & (start < end)).any():
        end = end - blank
    return np.stack([start - base, end - base], axis=1).astype(np.int32)


def tokenize_contexts(contexts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> TokenizedTexts:
    """Tokenize N contexts; their tokens' characters are without white space at the ends."""
    return trimmed(contexts, TokenizedTexts.from_encodings(encode(contexts, tokenizer)))


def trimmed(texts: Sequence[str], tokens: TokenizedTexts) -> TokenizedTexts:
    """Return the tokens of N texts with the white space taken off both ends of their characters."""
    text_of = np.repeat(np.arange(len(tokens)), tokens.lengths)
    return replace(tokens, offsets=trim_white_space(tokens.offsets, texts, text_of))


def check_text(name: str, text: str) -> None:
    """Raise UserError for a text that is not valid Unicode."""
    if found := broken_character(text):
        raise UserError(f"the {name} has {found}: it is not valid Unicode")


@dataclass(frozen=True)
class TokenizedContext:
    """One context of T tokens, kept so that for another question about it only that question is tokenized."""

    text: str
    tokens: TokenizedTexts  # of this text alone
    words: np.ndarray  # (T, 2) characters of the word that each token belongs to

    @classmethod
    def from_text(cls, text: str, tokenizer: "PreTrainedTokenizerFast") -> "TokenizedContext":
        """Tokenize a context; raise UserError if it is not valid Unicode."""
        check_text("context", text)
        (encoding,) = encode([text], tokenizer)
        tokens = trimmed([text], TokenizedTexts.from_encodings([encoding]))
        return cls(text, tokens, whole_words(text, tokens.offsets, encoding.word_ids))


def whole_words(text: str, offsets: np.ndarray, word_ids: list[int | None]) -> np.ndarray:
    """Return (T, 2) the characters of each token's word; the token's own where there are no words."""
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


def context_first(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Return whether the context precedes the question: encoders that pad on the left (XLNet) were trained that way.

    Decoders, whose tokenizers have no CLS token, must have read the question before the context.
    """
    return tokenizer.padding_side == "left" and tokenizer.cls_token_id is not None


@dataclass(frozen=True)
class SpecialTokenTemplate:
    """The S special tokens that a tokenizer puts around a question and a context, and its token types."""

    ids: np.ndarray  # (S,) int32
    types: np.ndarray  # (S,) int8
    sizes: tuple[int, int, int]  # numbers of special tokens before, between and after the two texts
    question_type: int
    context_type: int
    context_first: bool

    @classmethod
    def from_tokenizer(cls, tokenizer: "PreTrainedTokenizerFast") -> "SpecialTokenTemplate | None":
        """Return the tokenizer's template; None if a pair is not encoded as its first text followed by its second."""
        with unchanged_backend(tokenizer) as backend:
            encoding = backend.encode("a", "a")
        sequence = np.array([-1 if number is None else number for number in encoding.sequence_ids])
        first, second = np.flatnonzero(sequence == 0), np.flatnonzero(sequence == 1)
        if not len(first) or not len(second) or first[-1] > second[0]:
            return None
        ids, types = np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.int8)
        sizes = int(first[0]), int(second[0] - first[-1] - 1), int(len(ids) - second[-1] - 1)
        question, context = types[first[0]], types[second[0]]
        if swap := context_first(tokenizer):
            question, context = context, question
        return cls(ids[sequence < 0], types[sequence < 0], sizes, int(question), int(context), swap)

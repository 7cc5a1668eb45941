"""The windows of one question about a context whose tokens are cached."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qa.data.make_windows import TokenizedWindows, join_parts, joining_template, tokenize_pairs
from qa.data.tokenized_text import TokenizedContext, TokenizedTexts
from qa.data.windows import WindowSettings, check_room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class QuestionWindows:
    """The W windows of one question, which hold T tokens of its context."""

    context: str
    arrays: TokenizedWindows
    words: np.ndarray  # (T, 2) characters of the word that each token belongs to

    @classmethod
    def from_parts(
        cls,
        question: str,
        tokens: TokenizedTexts,
        context: TokenizedContext,
        tokenizer: "PreTrainedTokenizerFast",
        settings: WindowSettings,
    ) -> "QuestionWindows":
        """Return the same windows as training makes of this question and context.

        Args:
            question, tokens: one text and its tokens, truncated to the longest question that ``settings`` allow.

        Raises:
            UserError: a question that leaves the context no more room than ``doc_stride``.
        """
        check_room(tokens.lengths, [repr(question)], settings, tokenizer)
        if template := joining_template(tokenizer):
            arrays = join_parts(tokens, context.tokens, np.zeros(1, dtype=np.int64), template, settings)
            return cls(context.text, arrays, context.words[arrays.context_token])
        arrays = tokenize_pairs([question], [context.text], tokenizer, settings)
        if not len(context.words):
            return cls(context.text, arrays, arrays.offset_mapping)
        same = np.searchsorted(context.tokens.offsets[:, 0], arrays.offset_mapping[:, 0], side="right") - 1
        return cls(context.text, arrays, context.words[np.maximum(same, 0)])

    def __len__(self) -> int:
        return len(self.arrays)

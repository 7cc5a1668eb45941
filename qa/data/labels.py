"""Labels: the tokens of the answer in each window, from character offsets.

A label is the first and the last token that share a character with the answer, or the CLS token twice if the answer
is not completely in the window (Devlin et al. 2018, section 4.2; the same labels as Hugging Face's ``run_qa.py``).
"""

import numpy as np


def label(
    offsets: np.ndarray, tokens: np.ndarray, answers: np.ndarray, context_start: np.ndarray, cls_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and end token of the answer in each window, the CLS token if it is not completely there.

    Args:
        offsets: (T, 2) characters of the context tokens, window after window.
        tokens: (W + 1,) where each window's tokens begin in ``offsets``.
        answers: (W, 2) first character of the answer and the one after its last; -1 if there is none.
        context_start: (W,) position of the first context token. cls_index: (W,).
    """
    windows = len(tokens) - 1
    window = np.repeat(np.arange(windows), np.diff(tokens))
    begins, ends = answers[window, 0], answers[window, 1]
    shared = (offsets[:, 0] < ends) & (offsets[:, 1] > begins) & (begins >= 0)

    def at(mask: np.ndarray, last: bool) -> np.ndarray:
        """Return (W,) the first or last token of ``mask`` in each window, -1 if there is none."""
        hits = np.flatnonzero(mask)
        found = np.full(windows, -1)
        hits = hits if last else hits[::-1]
        found[window[hits]] = hits  # for repeated indices, the last assignment wins
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
    """Return the [start, end) characters of the first answer, without outer white space; -1 if its place is unknown."""
    if not answers["text"] or answers["answer_start"][0] < 0:
        return -1, -1
    text, start = answers["text"][0], answers["answer_start"][0]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())

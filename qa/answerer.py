"""Questions and contexts to answers, as ``pipeline("question-answering")`` gave them before transformers 5.3.

The search is the pipeline's (Chen et al. 2017, section 3.2): in each window a softmax over its context and CLS
tokens, the likeliest spans of at most ``max_answer_len`` tokens, widened to whole words; what is the same text,
whatever its case, is one answer, and its probabilities are added up over spans and windows.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from qa.arguments import DataArguments, ModelArguments
from qa.documents import Document, Frame, QuestionWindows
from qa.errors import UserError
from qa.models import (
    check_fit,
    load_config,
    load_model,
    load_tokenizer,
    position_limit,
    saved_settings,
    takes_token_types,
)
from qa.parsing import parse_arguments
from qa.spans import find_spans, null_scores
from qa.trainer import Collator, by_length
from qa.windows import WindowSettings, check_lengths, cut_questions

QUESTIONS = 64  # tokenized at once
WINDOWS = 1024  # whose logits are held at once, if one question has not more: this bounds the memory
CHUNK = 256  # windows whose spans are ranked at once
DOCUMENTS = 8  # texts whose tokens are kept


@dataclass(frozen=True)
class AskOptions:
    """How to answer; None means as the model was trained."""

    top_k: int = 1  # answers; above 1 the result is a list
    handle_impossible_answer: bool | None = None  # whether "" may be the answer
    max_answer_len: int | None = None  # tokens
    max_seq_len: int | None = None  # tokens of a window
    doc_stride: int | None = None  # tokens that neighbouring windows share
    max_question_len: int | None = None  # tokens
    align_to_words: bool = True  # widen answers to whole words
    batch_size: int = 16  # windows computed at once

    def __post_init__(self):
        for name in ("top_k", "max_answer_len", "max_seq_len", "max_question_len", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1")

    def over(self, settings: DataArguments) -> DataArguments:
        """The model's settings with these in their place."""
        window = self.max_seq_len or settings.max_seq_length
        stride = self.doc_stride
        if stride is None:
            stride = min(settings.doc_stride, window // 2) if self.max_seq_len else settings.doc_stride
        return dataclasses.replace(
            settings,
            max_seq_length=window,
            doc_stride=stride,
            max_query_length=self.max_question_len or settings.max_query_length,
            max_answer_length=self.max_answer_len or settings.max_answer_length,
        )


class QuestionAnswerer:
    """Answers questions from contexts with a fine-tuned model.

    Each answer is a dictionary: ``score`` is the probability of start times that of end, added up over the places
    where the answer was found; ``start`` and ``end`` are characters, and ``context[start:end] == answer``.

    Args:
        settings: the lengths and the null threshold to use where a call gives none.
        device: as torch takes it, or a GPU's number, -1 for the CPU (None: a GPU if there is one).
        options: fields of ``AskOptions`` for every call that does not set them.
    """

    def __init__(
        self, model, tokenizer, settings: DataArguments, device: str | int | torch.device | None = None, **options
    ):
        if isinstance(device, int):
            device = f"cuda:{device}" if device >= 0 else "cpu"
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer, self.settings = model.eval().to(self.device), tokenizer, settings
        self.options = AskOptions(**options)
        self.collate = Collator(tokenizer.pad_token_id, takes_token_types(model))
        self.frame = Frame.of(tokenizer)
        self.document = lru_cache(DOCUMENTS)(lambda text: Document.of(text, tokenizer))
        check_lengths(WindowSettings.of(self.options.over(settings)), tokenizer, position_limit(model.config))

    @classmethod
    def from_pretrained(cls, path: str, device=None, revision: str = "main", **options) -> "QuestionAnswerer":
        """A model from a folder or the Hub, with the lengths saved beside it.

        Args:
            options: fields of ``AskOptions`` for every call, or of ``DataArguments``, which replace what is saved.

        Raises:
            UserError: no such model, or one without a question-answering head.
        """
        source = ModelArguments(model_name_or_path=path, model_revision=revision)
        (saved,) = parse_arguments((DataArguments,), argv=[], saved=saved_settings(source))
        own = {item.name for item in dataclasses.fields(DataArguments)} - {"doc_stride"}
        saved = dataclasses.replace(saved, **{name: options.pop(name) for name in own & options.keys()})
        return cls.load(source, saved, device, **options)

    @classmethod
    def load(cls, source: ModelArguments, settings: DataArguments, device=None, **options) -> "QuestionAnswerer":
        tokenizer, config = load_tokenizer(source), load_config(source)
        check_fit(tokenizer, config)
        return cls(load_model(source, config, training=False), tokenizer, settings, device, **options)

    def __call__(self, *inputs, question=None, context=None, **options) -> dict | list:
        """The answer to one question, or a list of the answers to several.

        Args:
            inputs: ``question, context``; or a dictionary with these keys, several, or an iterable of them.
            question, context: two texts, two lists of the same length, or several questions about one context.
            options: fields of ``AskOptions``.

        Returns:
            For each question a dictionary with score, start, end and answer, or with ``top_k`` above 1 a list
            of that many with different answers, likeliest first (fewer where the context has not as many). An
            empty answer with score 0 where the context has no text.

        Raises:
            UserError: an empty question, or one too long for its window.
        """
        pairs, single = as_pairs(inputs, question, context)
        results = list(self.stream(pairs, **options))
        return results[0] if single else results

    def stream(self, pairs: Iterable[tuple[str, str]], **options) -> Iterator[dict | list[dict]]:
        """Yields the result for each (question, context) in turn, in memory that does not grow with their number."""
        given = {name: value for name, value in options.items() if value is not None}
        options = dataclasses.replace(self.options, **given)
        settings = options.over(self.settings)
        sizes = WindowSettings.of(settings)
        check_lengths(sizes, self.tokenizer, position_limit(self.model.config))
        pairs = iter(pairs)
        while batch := list(islice(pairs, QUESTIONS)):
            held: list[QuestionWindows] = []
            for ids, (_, context) in zip(self.question_ids([q for q, _ in batch], sizes), batch, strict=True):
                windows = QuestionWindows.of(ids, self.document(context), self.frame, sizes)
                if held and len(windows) + sum(map(len, held)) > WINDOWS:
                    yield from self.answer(held, settings, options)
                    held = []
                held.append(windows)
            yield from self.answer(held, settings, options)

    def question_ids(self, questions: list[str], sizes: WindowSettings) -> list[np.ndarray]:
        """Token ids of each question, cut to ``max_query_length``."""
        if any(not question.strip() for question in questions):
            raise UserError("the question is empty")
        cut, _, _ = cut_questions(questions, self.tokenizer, sizes.max_query_length)
        encoded = self.tokenizer(cut, add_special_tokens=False, truncation=False)
        return [np.array(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    @torch.no_grad()
    def logits(self, parts: list[QuestionWindows], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and end logits (W, L) of the windows of all questions, one after the other."""
        rows = [(part, index) for part in parts for index in range(len(part))]
        lengths = np.concatenate([part.length for part in parts])
        start, end = (np.zeros((len(rows), int(lengths.max())), dtype=np.float32) for _ in range(2))
        order = by_length(lengths)
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            batch = self.collate([part.row(index) for part, index in (rows[i] for i in chosen)])
            output = self.model(**{name: value.to(self.device) for name, value in batch.items()})
            width = batch["input_ids"].shape[1]
            start[chosen, :width] = output.start_logits.float().cpu().numpy()
            end[chosen, :width] = output.end_logits.float().cpu().numpy()
        return start, end

    def answer(self, parts: list[QuestionWindows], settings: DataArguments, options: AskOptions) -> Iterator:
        some = [part for part in parts if len(part.document.ids)]
        start, end = self.logits(some, options.batch_size) if some else (None, None)
        begin = 0
        for part in parts:
            answers = [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
            if len(part.document.ids):
                rows = slice(begin, begin + len(part))
                answers = best_answers(start[rows], end[rows], part, settings, options)
                begin += len(part)
            yield answers if options.top_k > 1 else answers[0]


def as_pairs(inputs: tuple, question, context) -> tuple[list[tuple[str, str]], bool]:
    """(question, context) pairs of whatever a call was given, and whether it was a single one."""
    if not inputs:
        several = [isinstance(part, (list, tuple)) for part in (question, context)]
        questions = list(question) if several[0] else [question]
        contexts = list(context) if several[1] else [context] * len(questions)
        if len(questions) != len(contexts):
            raise UserError(f"{len(questions)} questions and {len(contexts)} contexts: give as many of each")
        pairs, single = list(zip(questions, contexts, strict=True)), not any(several)
    elif len(inputs) == 2 and all(isinstance(item, str) for item in inputs):
        pairs, single = [inputs], True
    else:
        single = len(inputs) == 1 and isinstance(inputs[0], dict)
        items = [inputs[0]] if single else list(inputs[0]) if len(inputs) == 1 else list(inputs)
        if not all(isinstance(item, dict) and {"question", "context"} <= item.keys() for item in items):
            raise UserError("give question and context, or dictionaries with these two keys")
        pairs = [(item["question"], item["context"]) for item in items]
    for pair in pairs:
        if not all(isinstance(text, str) for text in pair):
            raise UserError("question and context must be text, both of them")
    return pairs, single


def log_probabilities(context: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-softmax over each window's context tokens (W, C), -inf where there is none, and its CLS token (W,)."""
    top = np.maximum(context.max(axis=1), null)
    total = np.exp(context - top[:, None]).sum(axis=1) + np.exp(null - top)
    shift = top + np.log(total)
    return context - shift[:, None], null - shift


def likeliest_spans(
    start: np.ndarray, end: np.ndarray, count: int, max_answer_len: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each window its ``count`` likeliest spans, best first: row, first and last token, log-probability.

    Args:
        start, end: (W, C) log-probabilities of the context tokens, -inf beyond a window's end.
    """
    size = min(max_answer_len, start.shape[1])
    for begin in range(0, len(start), CHUNK):
        rows = slice(begin, begin + CHUNK)
        ends = np.pad(end[rows], ((0, 0), (0, size - 1)), constant_values=-np.inf)
        scores = start[rows, :, None] + sliding_window_view(ends, size, axis=1)  # (W, C, size)
        scores = scores.reshape(len(scores), -1)
        kept = min(count, scores.shape[1])
        best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        for row, columns in enumerate(best):
            columns = columns[np.argsort(-scores[row, columns], kind="stable")]
            columns = columns[scores[row, columns] > -np.inf]
            yield begin + row, columns // size, columns // size + columns % size, scores[row, columns]


def gather(
    start: np.ndarray, end: np.ndarray, windows: QuestionWindows, count: int, max_answer_len: int, align: bool
) -> tuple[dict[str, dict], bool]:
    """The different answers, by their text in lower case, among the ``count`` likeliest spans of each window, and
    whether there are no more spans."""
    document, found, every = windows.document, {}, True
    places = document.words if align else document.offsets
    for row, first, last, scores in likeliest_spans(start, end, count, max_answer_len):
        every &= len(scores) < count
        base = windows.begin[row]
        begins, stops = places[base + first, 0], places[base + last, 1]
        for begin, stop, score in zip(begins.tolist(), stops.tolist(), np.exp(scores).tolist(), strict=True):
            if begin < stop:
                text = document.text[begin:stop]
                answer = found.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                answer["score"] += score
    return found, every


def best_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    windows: QuestionWindows,
    settings: DataArguments,
    options: AskOptions,
) -> list[dict]:
    """The ``top_k`` best different answers to one question from its windows' logits (W, L), at least one."""
    if np.isnan(start_logits).any() or np.isnan(end_logits).any():
        raise UserError("the model has diverged: its logits are not numbers; train it again")
    each, first = np.arange(len(windows)), windows.context_start
    inside = np.arange(int(windows.count.max())) < windows.count[:, None]
    parts, nulls = [], 0
    for logits in (start_logits, end_logits):
        context = np.where(inside, logits[:, first : first + inside.shape[1]], -np.inf)
        context, null = log_probabilities(context, logits[each, windows.cls_index])
        parts.append(context)
        nulls = nulls + null
    limit = settings.max_answer_length
    count = options.top_k * 2 + 10 if options.align_to_words else options.top_k
    found, every = gather(*parts, windows, count, limit, options.align_to_words)
    while len(found) < options.top_k and not every:  # too many spans had the same text: look further for others
        count *= 4
        more, every = gather(*parts, windows, count, limit, options.align_to_words)
        found = more | found
    answers = sorted(found.values(), key=lambda answer: -answer["score"])[: options.top_k]

    trained = options.handle_impossible_answer is None
    if settings.version_2_with_negative if trained else options.handle_impossible_answer:
        null = {"score": float(np.exp(nulls.min())), "start": 0, "end": 0, "answer": ""}
        best = answers[0]["score"] if answers else 0.0
        if trained:
            odds = null_odds(start_logits, end_logits, windows, settings)
        else:
            odds = float(nulls.min()) - float(np.log(max(best, np.finfo(float).tiny)))
        rank = 0
        if odds <= settings.null_score_diff_threshold:
            rank = max(1, sum(answer["score"] >= null["score"] for answer in answers))
        answers.insert(rank, null)
    return answers[: options.top_k] or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]


def null_odds(
    start_logits: np.ndarray, end_logits: np.ndarray, windows: QuestionWindows, settings: DataArguments
) -> float:
    """By how much no answer scores more than the best span, as the evaluation computes it."""
    arrays = windows.arrays()
    spans = find_spans(start_logits, end_logits, arrays, 1, settings.n_best_size, settings.max_answer_length)
    null = float(null_scores(start_logits, end_logits, arrays, 1).sum())
    return null - float(spans.score[0]) if len(spans.score) else np.inf

"""Ask a fine-tuned model questions about a text of any length.

Examples:
    python ask.py --model_name_or_path my_qa_model --question "Who wrote it?" --context "It was written by Ann."
    python ask.py --model_name_or_path my_qa_model --question "Who wrote it?" --context_file book.txt --top_k 3

From Python:

    from ask import QuestionAnswerer
    answerer = QuestionAnswerer.from_pretrained("my_qa_model")
    answerer(question="Who wrote it?", context="It was written by Ann.")
    # {"score": 0.98, "start": 18, "end": 21, "answer": "Ann"}
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from qa.arguments import DataArguments, ModelArguments, option
from qa.errors import UserError, run_command
from qa.models import (
    check_fit,
    load_config,
    load_model,
    load_tokenizer,
    position_limit,
    saved_settings,
    takes_token_types,
)
from qa.output import table
from qa.parsing import parse_arguments
from qa.reading import read_text, require_file
from qa.spans import find_spans
from qa.trainer import Collator, by_length
from qa.windows import FEATURES, WindowArrays, WindowSettings, check_lengths, make_windows


@dataclass
class AskArguments:
    """The question, and the text that holds its answer."""

    _argument_group_name = "ask"

    question: str | None = option(None, "The question.")
    context: str | None = option(None, "The text that holds the answer.")
    context_file: str | None = option(None, "Read the text from this UTF-8 file instead; any length.")
    top_k: int = option(1, "How many answers, the likeliest first.")

    def __post_init__(self):
        if self.top_k < 1:
            raise UserError("top_k must be at least 1")


class QuestionAnswerer:
    """Answers questions from contexts with a fine-tuned model.

    What ``pipeline("question-answering")`` returned before transformers 5.3 removed it: ``score`` is the
    product of the probabilities of start and end, each a softmax over one window's context and CLS tokens;
    ``start`` and ``end`` are characters, and ``context[start:end] == answer``.
    """

    def __init__(self, model, tokenizer, settings: DataArguments, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer, self.settings = model.eval().to(self.device), tokenizer, settings
        self.collate = Collator(tokenizer.pad_token_id, takes_token_types(model))
        check_lengths(WindowSettings.of(settings), tokenizer, position_limit(model.config))

    @classmethod
    def from_pretrained(cls, path: str, device: str | torch.device | None = None, **settings) -> "QuestionAnswerer":
        """A model from a folder or the Hub, with the lengths saved beside it.

        Args:
            settings: fields of ``DataArguments`` to use instead, such as ``max_answer_length=15``.

        Raises:
            UserError: no such model, or one without a question-answering head.
        """
        source = ModelArguments(model_name_or_path=path)
        (saved,) = parse_arguments((DataArguments,), argv=[], saved=saved_settings(source))
        return cls.load(source, dataclasses.replace(saved, **settings), device)

    @classmethod
    def load(cls, source: ModelArguments, settings: DataArguments, device=None) -> "QuestionAnswerer":
        tokenizer, config = load_tokenizer(source), load_config(source)
        check_fit(tokenizer, config)
        return cls(load_model(source, config, training=False), tokenizer, settings, device)

    @torch.no_grad()
    def logits(self, windows: Dataset, arrays: WindowArrays, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and end logits (W, L) of all windows."""
        shape = len(arrays), int(arrays.length.max())
        start, end = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        order = by_length(arrays.length)
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            batch = self.collate([windows[int(row)] for row in rows])
            inputs = {k: v.to(self.device) for k, v in batch.items() if not k.endswith("_positions")}
            output = self.model(**inputs)
            width = inputs["input_ids"].shape[1]
            start[rows, :width] = output.start_logits.float().cpu().numpy()
            end[rows, :width] = output.end_logits.float().cpu().numpy()
        return start, end

    def __call__(self, question: str, context: str, top_k: int = 1, batch_size: int = 16) -> dict | list[dict]:
        """The best answer, or with ``top_k`` above 1 a list of the best distinct ones.

        An empty answer with score 0 where the context has no text.
        """
        if not isinstance(question, str) or not question.strip():
            raise UserError("the question is empty")
        row = {"id": ["0"], "question": [question], "context": [context], "answers": [{"text": [], "answer_start": []}]}
        table = make_windows(row, [0], self.tokenizer, WindowSettings.of(self.settings))
        windows = Dataset(table.cast(FEATURES.arrow_schema))
        arrays = WindowArrays.of(windows)
        start, end = (log_probabilities(part, arrays) for part in self.logits(windows, arrays, batch_size))
        size = min(max(self.settings.n_best_size, top_k), 1000)
        spans = find_spans(start, end, arrays, 1, size, self.settings.max_answer_length)
        answers: dict[tuple[int, int], dict] = {}
        for begin, stop, score in zip(spans.start_char.tolist(), spans.end_char.tolist(), spans.score, strict=True):
            answer = {"score": float(np.exp(score)), "start": begin, "end": stop, "answer": context[begin:stop]}
            answers.setdefault((begin, stop), answer)
        best = list(answers.values())[:top_k] or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
        return best if top_k > 1 else best[0]


def log_probabilities(logits: np.ndarray, windows: WindowArrays) -> np.ndarray:
    """(W, L) log-softmax of logits over each window's context and CLS tokens; -inf elsewhere."""
    position = np.arange(logits.shape[1])
    begin = windows.context_start[:, None]
    allowed = (position >= begin) & (position < begin + np.diff(windows.tokens)[:, None])
    allowed[np.arange(len(logits)), windows.cls_index] = True
    scores = np.where(allowed, logits, np.float32(-np.inf))
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def check_question(model_args: ModelArguments, ask: AskArguments) -> None:
    if not model_args.model_name_or_path:
        raise UserError("no model given: --model_name_or_path my_qa_model")
    if not ask.question:
        raise UserError('no question given: --question "..."')
    if (ask.context is None) == (ask.context_file is None):
        raise UserError("give the text as --context or as --context_file, one of them")
    if ask.context_file:
        require_file(ask.context_file)


def main() -> None:
    kinds = ModelArguments, DataArguments, AskArguments
    model_args, _, ask = parse_arguments(kinds, description=__doc__)
    check_question(model_args, ask)  # the command line's own mistakes first, then the model's settings
    model_args, data_args, ask = parse_arguments(kinds, saved=saved_settings(model_args))
    context = read_text(ask.context_file) if ask.context_file else ask.context
    answerer = QuestionAnswerer.load(model_args, data_args)
    answers = answerer(question=ask.question, context=context, top_k=ask.top_k)
    for answer in answers if isinstance(answers, list) else [answers]:
        place = f"characters {answer['start']} to {answer['end']}"
        print(table([("answer", answer["answer"] or "(none)"), ("score", f"{answer['score']:.4f}"), ("place", place)]))


if __name__ == "__main__":
    run_command(main)

"""Answer questions from contexts, as ``pipeline("question-answering")`` did before transformers 5.3."""

import dataclasses
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice

import numpy as np
import torch

from qa.data.make_windows import joining_template
from qa.data.tokenized_text import TokenizedContext, check_text, cut_questions
from qa.data.windows import WindowSettings, check_lengths
from qa.inference.call_inputs import as_pairs, as_text_pair, first_input
from qa.inference.decoding import AskOptions, best_answers
from qa.inference.question_windows import QuestionWindows
from qa.model.batch_splitting import Batch, ForwardRetry
from qa.model.batching import token_batches
from qa.model.cpu_bf16 import convert_fewer_times
from qa.model.cpu_precision import single_threaded
from qa.model.device import AUTOCAST, answering_precision
from qa.model.device_errors import device_errors_in_one_line, is_device_error
from qa.model.loading import load_config, position_limit
from qa.model.optimizations import keep_weights_in, prepare_model, register_attention
from qa.model.padding import make_collator
from qa.model.tokenizer import check_fit, check_null_answers, load_tokenizer
from qa.model.weights import load_model
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.parser import parse_arguments
from qa.options.saved import saved_settings
from qa.runtime.errors import UserError, one_line

QUESTIONS = 64  # tokenized together
WINDOWS = 1024  # whose logits are in memory together, unless one question alone has more
CONTEXTS = 8  # contexts whose tokens are cached

device_errors_reported = device_errors_in_one_line(
    "take a smaller model, lower max_seq_length, or compute on the CPU", lambda: "start the program again"
)


class QuestionAnswerer:
    """Answer questions from contexts with a fine-tuned model.

    Each answer is a dictionary: ``score`` is the probability of start times that of end, summed over the places
    where the answer was found; ``start`` and ``end`` are characters, and ``context[start:end] == answer``.

    Args:
        settings: the lengths and the null threshold to use unless a call sets others.
        device: a torch device, or a GPU's number, -1 for the CPU (None: a GPU if available).
        precision: ``auto``, ``fp32``, ``fp16`` or ``bf16``, of matrix products; for fp16 and bf16 the model's weights
            are converted. None: as the model is.
        options: fields of ``AskOptions`` for every call that does not set them.

    Raises:
        UserError: a ``ValueError``, of a device that cannot be used or fails, an unknown option, or lengths that do
            not fit.
    """

    @device_errors_reported
    def __init__(
        self,
        model,
        tokenizer,
        settings: DataArguments,
        device: str | int | torch.device | None = None,
        precision: str | None = None,
        **options,
    ):
        self.options = AskOptions().updated(options)
        if isinstance(device, int):
            gpu = torch.accelerator.current_accelerator(check_available=True) or torch.device("cuda")
            device = f"{gpu.type}:{device}" if device >= 0 else "cpu"
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.zeros((), device=self.device).item()  # torch also has devices without data, such as meta
            self.model, self.tokenizer, self.settings = model.eval().to(self.device), tokenizer, settings
        except (RuntimeError, AssertionError) as error:  # no such device, or torch without it
            if is_device_error(error):
                raise
            raise UserError(f"device {device} cannot be used: {one_line(error)}") from None
        prepare_model(self.model)
        joining_template(tokenizer)  # cached now, so that the first answer is not delayed
        self.cache_contexts()
        sizes = WindowSettings.from_args(self.options.over(settings))
        check_lengths(sizes, tokenizer, position_limit(model.config))
        self.collate = make_collator(self.model, tokenizer, sizes.max_seq_length)
        self.retry, self.autocast = ForwardRetry("answering"), self.compute_in(precision)

    def compute_in(self, precision: str | None) -> torch.dtype | None:
        """Prepare the model for a precision, and return the type for autocast, None to compute as the model is."""
        dtype = AUTOCAST[answering_precision(precision, self.device)] if precision else None
        if dtype is not None:
            keep_weights_in(self.model, dtype)
            if self.device.type == "cpu":
                convert_fewer_times(self.model)
        return dtype

    def cache_contexts(self) -> None:
        self.context = lru_cache(CONTEXTS)(partial(TokenizedContext.from_text, tokenizer=self.tokenizer))

    @classmethod
    def from_pretrained(
        cls, path: str, device=None, revision: str = "main", precision: str = "auto", **options
    ) -> "QuestionAnswerer":
        """Load a model from a folder or the Hub, with the lengths saved with it.

        Args:
            options: fields of ``AskOptions`` for every call, or of ``DataArguments``, which override the saved ones.

        Raises:
            UserError: no such model, or one without a question-answering head.
        """
        source = ModelArguments(model_name_or_path=path, model_revision=revision)
        settings, options = split_settings(options, saved_settings(source))
        return cls.load(source, settings, device, precision=precision, **options)

    @classmethod
    def load(
        cls,
        source: ModelArguments,
        settings: DataArguments,
        device=None,
        tokenizer=None,
        precision: str = "auto",
        **options,
    ) -> "QuestionAnswerer":
        """Load a model as ``source`` names it, and its tokenizer unless one is given.

        On a CPU, servers may load it once and answer in forked processes.
        """
        tokenizer, config = tokenizer or load_tokenizer(source), load_config(source)
        check_fit(tokenizer, config)
        with single_threaded():
            return cls(load_model(source, config, training=False), tokenizer, settings, device, precision, **options)

    def __call__(self, *inputs, question=None, context=None, **options) -> dict | list:
        """Return the answer to one question, or a list of the answers to several.

        Args:
            inputs: ``question, context``; or a dictionary with these keys, several, or an iterable of them.
            question, context: two texts, two lists of the same length, or several questions about one context.
            options: fields of ``AskOptions``, or ``data`` or ``X``, older names for ``inputs``.

        Returns:
            For each question a dictionary with score, start, end and answer, or with ``top_k`` above 1 a list
            of that many with different answers, most likely first (fewer if the context has fewer). An
            empty answer with score 0 where the context is white space.

        Raises:
            UserError: a ``ValueError``, of inputs in another form, an empty question or context, a question too long
                for its window, or an unknown option. As in the old pipeline, a generator may yield empty contexts,
                whose answer is empty with score 0.
        """
        inputs, options = first_input(inputs, options)
        pairs, single = as_pairs(inputs, question, context)
        results = list(self.stream(pairs, **options))
        return results[0] if single else results

    def stream(self, pairs: Iterable[tuple[str, str]], **options) -> Iterator[dict | list[dict]]:
        """Yield the result for each (question, context) in turn, in memory that does not grow with their number.

        Each may also be a dictionary, as in a call. The answer of an empty context is empty with score 0.
        """
        asked = self.options.updated(options)
        settings = asked.over(self.settings)
        if asked.allows_no_answer(settings):
            check_null_answers(self.tokenizer, "give --handle_impossible_answer false")
        sizes = WindowSettings.from_args(settings)
        check_lengths(sizes, self.tokenizer, position_limit(self.model.config))
        pairs = map(as_text_pair, pairs)
        while batch := list(islice(pairs, QUESTIONS)):
            held: list[QuestionWindows] = []
            for windows in self.windows(batch, sizes):
                if held and len(windows) + sum(map(len, held)) > WINDOWS:
                    yield from self.answer(held, settings, asked)
                    held = []
                held.append(windows)
            yield from self.answer(held, settings, asked)

    def windows(self, pairs: list[tuple[str, str]], sizes: WindowSettings) -> Iterator[QuestionWindows]:
        """Yield the windows of each (question, context)."""
        questions = [question for question, _ in pairs]
        if any(not question.strip() for question in questions):
            raise UserError("the question is empty")
        for text in questions:
            check_text("question", text)
        questions, tokens, _ = cut_questions(questions, self.tokenizer, sizes.max_query_length)
        for row, (question, (_, text)) in enumerate(zip(questions, pairs, strict=True)):
            context = self.context(text)
            yield QuestionWindows.from_parts(question, tokens.select(row), context, self.tokenizer, sizes)

    def __getstate__(self) -> dict:
        """Return what is pickled, to be sent to another process: all but the cache of contexts."""
        return {name: value for name, value in vars(self).items() if name != "context"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        register_attention()
        self.cache_contexts()

    @torch.inference_mode()
    @device_errors_reported
    def logits(self, parts: list[QuestionWindows], tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the start and end logits (W, L) of the windows of all questions, in order.

        Args:
            tokens: in a batch, at most, with its padding.

        Raises:
            UserError: a window does not fit into memory, or the device failed.
        """
        rows = [row for part in parts for row in part.arrays.rows()]
        lengths = np.concatenate([part.arrays.length for part in parts])
        logits = np.zeros((len(rows), 2, int(lengths.max())), dtype=np.float32)
        is_bf16 = self.autocast == torch.bfloat16
        for chosen in token_batches(lengths, tokens, self.device, is_bf16, self.collate.width):
            batch = self.collate([rows[i] for i in chosen])
            (found,) = self.retry.run(batch, self.forward)
            width = int(lengths[chosen[0]])
            logits[chosen, :, :width] = found[:, :, :width].numpy()
        return logits[:, 0], logits[:, 1]

    def forward(self, batch: Batch) -> tuple[torch.Tensor]:
        """Return the start and end logits (B, 2, L) of a batch, float32 on the CPU."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = self.model(**{name: value.to(self.device) for name, value in batch.items()})
        return (torch.stack([output.start_logits, output.end_logits], dim=1).float().cpu(),)

    def answer(self, parts: list[QuestionWindows], settings: DataArguments, options: AskOptions) -> Iterator:
        some = [part for part in parts if len(part.words)]
        tokens = options.batch_size * settings.max_seq_length
        start, end = self.logits(some, tokens) if some else (np.empty((0, 0)), np.empty((0, 0)))
        begin = 0
        for part in parts:
            answers = [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
            if len(part.words):
                rows = slice(begin, begin + len(part))
                answers = best_answers(start[rows], end[rows], part, settings, options)
                begin += len(part)
            yield answers if options.top_k > 1 else answers[0]


def split_settings(options: dict, saved: str | None = None) -> tuple[DataArguments, dict]:
    """Return the settings at ``saved``, overridden by the options that are ``DataArguments``, and the other options."""
    (settings,) = parse_arguments((DataArguments,), argv=[], saved=saved)
    own = {item.name for item in dataclasses.fields(DataArguments)} - {"doc_stride"}
    settings = dataclasses.replace(settings, **{name: options[name] for name in own & options.keys()})
    return settings, {name: value for name, value in options.items() if name not in own}

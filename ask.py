"""Ask a fine-tuned model questions about a text of any length.

Examples:
    python ask.py --model_name_or_path my_qa_model --question "Who wrote it?" --context "It was written by Ann."
    python ask.py --model_name_or_path my_qa_model --context_file book.txt       # one question after the other
    python ask.py --model_name_or_path my_qa_model --input questions.jsonl --output answers.jsonl

From Python, in the place of ``from transformers import pipeline``:

    from ask import pipeline
    answerer = pipeline("question-answering", model="my_qa_model")
    answerer(question="Who wrote it?", context="It was written by Ann.")
    # {"score": 0.98, "start": 18, "end": 21, "answer": "Ann"}
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback


import contextlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from qa.data.formats import Unreadable, read_file, read_text_file, require_file
from qa.inference.answerer import QuestionAnswerer
from qa.options.arguments import AskArguments, DataArguments, ModelArguments
from qa.options.parser import parse_arguments
from qa.options.saved import saved_settings
from qa.runtime.console import table, warn
from qa.runtime.errors import UserError
from qa.runtime.process import run_command

__all__ = ["QuestionAnswerer", "pipeline"]
WIDTH = 80  # columns, of which a sentence takes what the names leave
SENTENCE = re.compile(r"[.!?][\"'”’)\]]*\s+(?![a-z])|\n\s*\n|[。！？]")


def pipeline(task: str, model, tokenizer=None, **options) -> QuestionAnswerer:
    """What ``transformers.pipeline("question-answering", ...)`` gave before release 5.3.

    Args:
        model: a folder, a Hub id, or a model, which then comes with its ``tokenizer``.
        options: ``device``, ``revision`` and what ``QuestionAnswerer.from_pretrained`` takes.
    """
    if task != "question-answering":
        raise UserError(f"task {task!r} is not known here, only 'question-answering'")
    if isinstance(model, (str, os.PathLike)):
        return QuestionAnswerer.from_pretrained(str(model), **options)
    if tokenizer is None:
        raise UserError("a model that is no name needs its tokenizer: pipeline(task, model=model, tokenizer=tokenizer)")
    return QuestionAnswerer(model, tokenizer, DataArguments(), **options)


def sentence(context: str, start: int, end: int) -> str:
    """The sentence around the answer, with the answer in brackets, on one line."""
    begin = max((match.end() for match in SENTENCE.finditer(context) if match.end() <= start), default=0)
    stop = next((match.end() for match in SENTENCE.finditer(context, end)), len(context))
    parts = context[begin:start], f"[{context[start:end]}]", context[end:stop]
    return " ".join("".join(parts).split())


def shown(answer: dict, context: str) -> str:
    """One answer as a table of at most ``WIDTH`` columns."""
    rows = [("answer", " ".join(answer["answer"].split()) or "(none)"), ("score", f"{answer['score']:.4f}")]
    if answer["answer"]:
        rows.append(("place", f"characters {answer['start']} to {answer['end']}"))
        lines = textwrap.wrap(sentence(context, answer["start"], answer["end"]), WIDTH - 12, break_on_hyphens=False)
        rows += [("sentence" if not number else "", line) for number, line in enumerate(lines)]
    return table(rows)


def print_answers(answers: dict | list[dict], context: str) -> None:
    print("\n\n".join(shown(answer, context) for answer in (answers if isinstance(answers, list) else [answers])))


def ask_on(answerer: QuestionAnswerer, context: str) -> None:
    """Answers what is typed, with the model kept loaded, until an empty line or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  the arrow keys, where Python has them
    print("Ask; an empty line ends it.")
    while True:
        try:
            question = input("question: ").strip()
        except EOFError:
            print()
            return
        if not question:
            return
        try:
            print_answers(answerer(question=question, context=context), context)
        except UserError as error:  # a question too long for its window; the next may do
            warn(f"error: {error}")
        print()


def read_questions(path: str, context: str | None) -> Iterator[dict]:
    """Rows with ``question`` and ``context``. Raises UserError for a row without one of them."""
    for place, row in read_file(path):
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.why}")
        if not isinstance(row, dict):
            raise UserError(f"{place}: is not an object with a question")
        if context is not None:
            row = row | {"context": context}
        for name in ("question", "context"):
            if not isinstance(row.get(name), str) or (name == "question" and not row[name].strip()):
                advice = "; give it there, or one text for all as --context_file" if name == "context" else ""
                raise UserError(f"{place}: has no `{name}`{advice}")
        yield row


def answer_file(answerer: QuestionAnswerer, rows: list[dict], path: Path) -> None:
    """Writes one line for each row: its id, its question, and the answer, or ``answers`` where several were asked for.

    The lines go to ``path`` with ``.part`` behind its name, which loses it when all are there.
    """
    part = path.with_name(path.name + ".part")
    try:
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    pairs = ((row["question"], row["context"]) for row in rows)
    try:
        with file:
            results = zip(rows, answerer.stream(pairs), strict=True)
            for row, result in tqdm(results, total=len(rows), unit=" questions", ncols=WIDTH - 1):
                kept = {name: row[name] for name in ("id", "question") if row.get(name) is not None}
                kept |= {"answers": result} if isinstance(result, list) else result
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    except KeyboardInterrupt:
        warn(f"interrupted: the answers so far are in {part}")
        sys.exit(130)
    except OSError as error:
        raise UserError(f"{part}: cannot be written: {error.strerror}; the answers so far are in it") from None
    os.replace(part, path)


def check_question(model_args: ModelArguments, ask: AskArguments) -> None:
    if not model_args.model_name_or_path:
        raise UserError("no model given: --model_name_or_path my_qa_model")
    if ask.input and ask.question:
        raise UserError("give --question or --input, one of them")
    if bool(ask.input) != bool(ask.output):
        raise UserError("--input questions.jsonl and --output answers.jsonl go together")
    if not ask.input and not ask.question and not sys.stdin.isatty():
        raise UserError('no question given: --question "...", or --input FILE --output FILE for many')
    both = ask.context is not None and ask.context_file is not None
    if both or (not ask.input and ask.context is None and ask.context_file is None):
        raise UserError("give the text as --context or as --context_file, one of them")
    for path in (ask.context_file, ask.input):
        if path:
            require_file(path)
    if ask.output:
        output = Path(ask.output)
        if output.is_dir() or not output.parent.is_dir():
            raise UserError(f"output {ask.output}: must be a file in a folder that exists")
        if output.exists() and output.samefile(ask.input):
            raise UserError("--output must be another file than --input")


def main() -> None:
    kinds = ModelArguments, DataArguments, AskArguments
    model_args, _, ask = parse_arguments(kinds, description=__doc__)
    check_question(model_args, ask)  # the command line's own mistakes first, then the model's settings
    model_args, data_args, ask = parse_arguments(kinds, saved=saved_settings(model_args))
    context = read_text_file(ask.context_file) if ask.context_file else ask.context
    rows = list(read_questions(ask.input, context)) if ask.input else []
    if ask.input and not rows:
        raise UserError(f"{ask.input}: holds no questions")
    answerer = QuestionAnswerer.load(
        model_args,
        data_args,
        ask.device,
        top_k=ask.top_k,
        handle_impossible_answer=ask.handle_impossible_answer,
        align_to_words=ask.align_to_words,
        batch_size=ask.per_device_eval_batch_size,
    )
    if ask.input:
        answer_file(answerer, rows, Path(ask.output))
        print(table([("questions", f"{len(rows):,}"), ("answers", ask.output)]))
    elif ask.question:
        print_answers(answerer(question=ask.question, context=context), context)
    else:
        ask_on(answerer, context)


if __name__ == "__main__":
    run_command(main)

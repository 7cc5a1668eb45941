"""Print answers on the terminal, and read questions from it."""

import contextlib
import re
import textwrap

from qa.inference.answerer import QuestionAnswerer
from qa.runtime.console import table, warn
from qa.runtime.errors import UserError

WIDTH, NAMES = 80, 12  # columns of a table, and of its names with the space around them
SENTENCE = re.compile(r"[.!?][\"'”’)\]]*\s+(?![a-z])|\n\s*\n|[。！？]")


def mark_in_sentence(context: str, start: int, end: int) -> str:
    """Return the sentence around the answer on one line, with the answer in brackets."""
    begin = max((match.end() for match in SENTENCE.finditer(context) if match.end() <= start), default=0)
    stop = next((match.end() for match in SENTENCE.finditer(context, end)), len(context))
    parts = context[begin:start], f"[{context[start:end]}]", context[end:stop]
    return " ".join("".join(parts).split())


def format_answer(answer: dict, context: str) -> str:
    """Return one answer as a table of at most ``WIDTH`` columns."""
    rows = [*wrapped("answer", answer["answer"] or "(none)"), ("score", f"{answer['score']:.4f}")]
    if answer["answer"]:
        rows.append(("position", f"characters {answer['start']} to {answer['end']}"))
        rows += wrapped("sentence", mark_in_sentence(context, answer["start"], answer["end"]))
    return table(rows)


def wrapped(name: str, text: str) -> list[tuple[str, str]]:
    """Return the lines of a text as rows of a table, the first one with its name."""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - NAMES, break_on_hyphens=False)
    return [(name if not number else "", line) for number, line in enumerate(lines)]


def print_answers(answers: dict | list[dict], context: str) -> None:
    """Print one answer, or several one below the other."""
    print(
        "\n\n".join(format_answer(answer, context) for answer in (answers if isinstance(answers, list) else [answers]))
    )


def ask_repeatedly(answerer: QuestionAnswerer, context: str) -> None:
    """Answer questions typed on the terminal until an empty line or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history, if available
    print("Type a question; an empty line quits.")
    while True:
        try:
            question = input("question: ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()  # what is reported next begins a line
            raise
        if not question:
            return
        try:
            print_answers(next(answerer.stream([(question, context)])), context)
        except UserError as error:  # such as a question that is too long for its window
            warn(f"error: {error}")
        print()

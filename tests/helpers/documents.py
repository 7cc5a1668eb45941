"""The documents: their command blocks, links and anchors."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DOCUMENTS = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "benchmarks/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(document: Path, *languages: str) -> Iterator[str]:
    """Yield the text of every fenced block in one of ``languages``."""
    for language, text in FENCE.findall(document.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def prose(document: Path) -> str:
    """Return the text of a document without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> Iterator[str]:
    """Yield every command line: of bash and PowerShell blocks, and ``python FILE.py --option`` within sentences.

    Continued lines are joined, comments dropped, and lines joined by ``&&`` split. Those of ``pipelines`` are left out.
    """
    for line in command_lines(document):
        if not is_pipeline(line):
            words = split(line, comments=True)
            yield from (part for part in shlex.join(words).split(" '&&' ") if part)
    for line in re.findall(r"`(python \w+\.py --[^`]+)`", prose(document)):
        yield shlex.join(split(line))


def command_lines(document: Path) -> Iterator[str]:
    for text in blocks(document, "bash", "powershell"):
        yield from text.replace("\\\n", " ").splitlines()


def is_pipeline(line: str) -> bool:
    return any(word in ("|", "<", ">") or word.startswith("<(") for word in split(line, comments=True))


def pipelines(document: Path) -> Iterator[str]:
    """Yield every line that only a shell can run: with pipes, redirections or process substitution."""
    return filter(is_pipeline, command_lines(document))


def split(line: str, comments: bool = False) -> list[str]:
    """Return the words of a command line; backslashes stay, as PowerShell writes paths with them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape = True, ""
    lexer.commenters = "#" if comments else ""
    return list(lexer)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, anchor) of every relative link and picture; an empty path is the document itself."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor

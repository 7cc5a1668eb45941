"""Answers a second, one by one and in batches, by the length of the text; and answers compared with an earlier run.

    python benchmarks/answer_speed.py --model_name_or_path my_qa_model --validation_file dev-v1.1.json --answers a.json
    python benchmarks/answer_speed.py --model_name_or_path my_qa_model --validation_file dev-v1.1.json --compare a.json

The same 300 questions of the file (SQuAD's JSON) in every run, evenly spread: 270 with their own paragraph, and 30 with
a text of more than 6,000 characters, which is that paragraph and the ones after it. 60 of them are also asked about the
150 characters around the answer, and 30 about 1,500, which is about one full window. One by one and in batches take
turns; the output has medians over the rounds. The script only needs ``ask.py``, so that it also runs in another
version's checkout, where it is copied to the same place.
"""

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ask import QuestionAnswerer

QUESTIONS, LONG, LONG_CHARACTERS = 300, 30, 6_000
CUT = {150: 60, 1_500: 30}  # characters of a cut text: questions asked about one
OWN, LONG_TEXTS = "own paragraph", f"over {LONG_CHARACTERS:,} characters"


def read_places(path: str) -> list[tuple[list[str], int, dict]]:
    """Return for each question the paragraphs of its article, the place of its own one, and its dictionary."""
    content = Path(path).read_bytes()
    articles = json.loads(gzip.decompress(content) if path.endswith(".gz") else content)["data"]
    return [
        ([each["context"] for each in article["paragraphs"]], number, qa)
        for article in articles
        for number, paragraph in enumerate(article["paragraphs"])
        for qa in paragraph["qas"]
    ]


def join_after(texts: list[str], number: int, characters: int) -> str:
    """Return paragraph ``number`` and those after it, then the first ones, until there are more characters."""
    text, place = texts[number], number + 1
    while len(text) <= characters:
        text, place = f"{text}\n\n{texts[place % len(texts)]}", place + 1
    return text


def cut_around(text: str, start: int, characters: int) -> str:
    """Return ``characters`` of a text, with whole words, from some before ``start`` on."""
    begin = text.rfind(" ", 0, max(start - characters // 2, 0)) + 1
    return text[begin : begin + characters].rpartition(" ")[0] or text


def make_classes(path: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Return for each class of lengths the questions and texts by the question's id."""
    places = read_places(path)
    total = min(QUESTIONS, len(places))
    chosen = [places[i * len(places) // total] for i in range(total)]
    classes: dict[str, dict[str, tuple[str, str]]] = {OWN: {}, LONG_TEXTS: {}}
    for row, (texts, number, qa) in enumerate(chosen):
        is_long = row % (QUESTIONS // LONG) == 0
        text = join_after(texts, number, LONG_CHARACTERS) if is_long else texts[number]
        classes[LONG_TEXTS if is_long else OWN][qa["id"]] = qa["question"], text
    for characters, count in CUT.items():
        part = classes[f"{characters:,} characters"] = {}
        for texts, number, qa in chosen[:: max(1, len(chosen) // count)][:count]:
            start = qa["answers"][0]["answer_start"] if qa["answers"] else 0
            text = join_after(texts, number, start + 2 * characters)
            part[qa["id"]] = qa["question"], cut_around(text, start, characters)
    return classes


def one_by_one(answerer: QuestionAnswerer, pairs: list[tuple[str, str]]) -> list[dict]:
    return [answerer(question, text) for question, text in pairs]


def in_batches(answerer: QuestionAnswerer, pairs: list[tuple[str, str]]) -> list[dict]:
    return answerer(question=[question for question, _ in pairs], context=[text for _, text in pairs])


def timed(function: Callable, *args) -> tuple[float, list[dict]]:
    begin = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - begin, result


def describe_difference(answers: list[dict], others: list[dict]) -> str:
    """Return the share of equal spans, and the largest difference of scores among all."""
    pairs = list(zip(answers, others, strict=True))
    equal = sum(all(one[name] == other[name] for name in ("start", "end")) for one, other in pairs)
    worst = max(abs(one["score"] - other["score"]) for one, other in pairs)
    return f"{equal} of {len(pairs)} spans equal ({equal / len(pairs):.1%}), scores within {worst:.2g}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--device", help="default: a GPU if available")
    parser.add_argument("--precision", help="default: the version's own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", help="file for the answers to the 300 questions, one by one")
    parser.add_argument("--compare", help="such a file of an earlier run")
    args = parser.parse_args(argv)
    options = {"precision": args.precision} if args.precision else {}  # earlier versions have no such option
    answerer = QuestionAnswerer.from_pretrained(args.model_name_or_path, device=args.device, **options)
    classes = make_classes(args.validation_file)
    for rows in classes.values():
        in_batches(answerer, list(rows.values())[:8])  # so that no round includes the preparation of the first calls
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in classes}
    found: dict[str, tuple[list[dict], list[dict]]] = {}
    for _ in range(args.rounds):
        for name, rows in classes.items():
            (single, alone), (batched, together) = (
                timed(function, answerer, list(rows.values())) for function in (one_by_one, in_batches)
            )
            seconds[name].append((single, batched))
            found[name] = alone, together

    whole = f"the {QUESTIONS} questions"
    seconds[whole] = [
        (own[0] + long[0], own[1] + long[1]) for own, long in zip(seconds[OWN], seconds[LONG_TEXTS], strict=True)
    ]
    found[whole] = tuple(own + long for own, long in zip(found[OWN], found[LONG_TEXTS], strict=True))
    print(f"{'answers a second':24} {'one by one':>10} {'in batches':>10} {'times':>6}  batches against one by one")
    for name, rounds in seconds.items():
        count = len(found[name][0])
        single, batched = (count / statistics.median(part) for part in zip(*rounds, strict=True))
        times = statistics.median(one / other for one, other in rounds)
        print(f"{name:24} {single:10.1f} {batched:10.1f} {times:6.2f}  {describe_difference(*found[name])}")

    answers = dict(zip([*classes[OWN], *classes[LONG_TEXTS]], found[whole][0], strict=True))
    if args.answers:
        Path(args.answers).write_text(json.dumps(answers, indent=1), encoding="utf-8")
    if args.compare:
        others = json.loads(Path(args.compare).read_text(encoding="utf-8"))
        print(f"{args.compare}: {describe_difference(list(answers.values()), [others[key] for key in answers])}")


if __name__ == "__main__":
    main()

"""SQuAD-format data from the Hub or from files: every question checked, used or counted as dropped.

Whatever the source, a split becomes a ``Dataset`` with the columns of the Hub's SQuAD: ``id``,
``title``, ``context``, ``question`` and ``answers`` (``text`` and ``answer_start``, lists of the same
length). An ``answer_start`` of -1 says that the text was not found in its context.
"""

import ast
import collections
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from datasets import Dataset, Features, List, Value, load_dataset

from qa.arguments import DataArguments
from qa.errors import UserError, one_line
from qa.reading import read_file

FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)


@dataclass
class Split:
    """The questions of one split that are used, and the count of the others.

    ``read == len(examples) + sum(dropped.values())``; the repaired ones are among the examples.
    """

    name: str
    examples: Dataset
    read: int
    repaired: int = 0
    dropped: collections.Counter = field(default_factory=collections.Counter)
    unanswerable: int = 0


def parse_answers(place: str, value) -> list[tuple[str, int]]:
    """Answers in any of their usual shapes, as (text, answer_start); -1 where no start is given."""
    if isinstance(value, str) and value.strip():
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse_answers(place, parse(value))
            except (ValueError, SyntaxError, RecursionError):
                continue
        raise UserError(
            f"{place}: `answers` is text that is not JSON: {value[:60]!r}; write it as"
            ' {"text": ["..."], "answer_start": [0]}'
        )
    if value is None or isinstance(value, str) or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        texts = texts if isinstance(texts, list) else [] if texts is None else [texts]
        starts = starts if isinstance(starts, list) else [starts] * len(texts)
        if len(texts) != len(starts):
            raise UserError(f"{place}: `answers` has {len(texts)} texts and {len(starts)} starts")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    else:
        raise UserError(f"{place}: `answers` must hold `text` and `answer_start`")
    return [(text, whole_number(place, start)) for text, start in pairs if is_text(place, text)]


def is_text(place: str, text) -> bool:
    if not isinstance(text, str):
        raise UserError(f"{place}: the text of an answer is {text!r}, which is not text")
    return bool(text.strip())


def whole_number(place: str, start) -> int:
    if start is None:
        return -1
    if isinstance(start, bool) or not isinstance(start, (int, float)) or start != start or int(start) != start:
        raise UserError(f"{place}: `answer_start` is {start!r}, which is not a whole number")
    return int(start)


def check_row(place: str, row) -> None:
    """Raises UserError for a row that has not the shape of a question."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: is not an object with question and context")
    for key in ("id", "question", "context"):
        value = row.get(key)
        if value is None or value != value or (key == "id" and not str(value).strip()):
            raise UserError(f"{place}: has no `{key}`")
    if "answers" not in row and not row.get("is_impossible"):
        raise UserError(f"{place}: has no `answers`, only {', '.join(map(str, row))}")
    for key in ("question", "context"):
        if not isinstance(row[key], str):
            raise UserError(f"{place}: `question` and `context` must be text")
        try:
            row[key].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{place}: `{key}` has half a character at {error.start}; write it as UTF-8") from None


def locate(context: str, text: str, start: int) -> int:
    """Where the answer stands: at its offset, else where it occurs if that is one place, else -1."""
    if start >= 0 and context[start : start + len(text)] == text:
        return start
    first = context.find(text)
    return first if first >= 0 and context.find(text, first + 1) < 0 else -1


def check_rows(name: str, rows: Iterable[tuple[str, dict]], training: bool, negatives: bool | None) -> Split:
    """Turns rows into examples. Training drops what cannot be labelled; evaluation, only empty questions."""
    examples, dropped, read, repaired, seen = [], collections.Counter(), 0, 0, {}
    for place, row in rows:
        read += 1
        check_row(place, row)
        context, question = row["context"], row["question"]
        if not training:
            first = seen.setdefault(str(row["id"]), place)
            if first != place:
                raise UserError(f"{place}: its id {row['id']} is that of {first}: no prediction could tell them apart")
        impossible = row.get("is_impossible") in (True, "True", "true")
        answers = [] if impossible else parse_answers(place, row.get("answers"))
        located = [(text, locate(context, text, start)) for text, start in answers]
        moved = [(at, start) for (_, at), (_, start) in zip(located, answers, strict=True) if at >= 0]
        reason = None
        if not question.strip():
            reason = "empty question"
        elif training and not context.strip():
            reason = "empty context"
        elif training and not answers and negatives is False:
            reason = "no answer"
        elif training and answers:
            located = [answer for answer in located if answer[1] >= 0]
            reason = None if located else "answer not found at its offset"
        if reason:
            dropped[reason] += 1
            continue
        repaired += any(at != start for at, start in moved)
        examples.append(
            {
                "id": str(row["id"]),
                "title": str(row.get("title") or ""),
                "context": context,
                "question": question,
                "answers": {"text": [text for text, _ in located], "answer_start": [at for _, at in located]},
            }
        )
    unanswerable = sum(not example["answers"]["text"] for example in examples)
    columns = {key: [example[key] for example in examples] for key in FEATURES}
    return Split(name, Dataset.from_dict(columns, features=FEATURES), read, repaired, dropped, unanswerable)


def rows_of(args: DataArguments, split: str, cache_dir: str | None) -> Iterator[tuple[str, dict]] | None:
    """The rows of a split from wherever the arguments say; None where they name no source for it."""
    path = args.train_file if split == "train" else args.validation_file
    if path:
        return read_file(path)
    if not args.dataset_name or args.train_file or args.validation_file:
        return None
    source = args.dataset_name
    try:
        loaded = load_dataset(source, args.dataset_config_name, cache_dir=cache_dir)
    except Exception as error:  # the Hub's client and the builders raise dozens of unrelated types
        raise UserError(
            f"dataset {source} cannot be had: {one_line(error)}; check the name and the network, log in with"
            " `hf auth login`, give --train_file and --validation_file, or try --config configs/demo.yaml"
        ) from None
    if split not in loaded:
        return None
    return ((f"{source}, {split} row {number}", row) for number, row in enumerate(loaded[split], 1))


def load_splits(args: DataArguments, names: tuple[str, ...], seed: int = 42, cache_dir: str | None = None) -> dict:
    """Reads and checks the splits in ``names`` that the arguments name a source for.

    ``args.version_2_with_negative`` is set from the data where it is None.
    """
    held_out = args.validation_split_percentage
    wanted = {"train", *names} if held_out else set(names)
    limits = {"train": args.max_train_samples, "validation": None if held_out else args.max_eval_samples}
    rows = {}
    for name in wanted:
        source = None if held_out and name == "validation" else rows_of(args, name, cache_dir)
        if source is not None:
            rows[name] = itertools.islice(source, limits[name])
    if held_out and "train" in rows:
        train = list(rows["train"])
        if not 0 < round(len(train) * held_out / 100) < len(train):
            raise UserError(f"validation_split_percentage {held_out} of {len(train)} questions leaves a part empty")
        parts = Dataset.from_dict({"row": range(len(train))}).train_test_split(held_out / 100, seed=seed)
        rows["train"] = [train[i] for i in parts["train"]["row"]]
        rows["validation"] = [train[i] for i in parts["test"]["row"]][: args.max_eval_samples]
    splits = {}
    for name in (name for name in ("train", "validation") if name in rows and name in names):
        splits[name] = check_rows(name, rows[name], name == "train", args.version_2_with_negative)
        if not len(splits[name].examples):
            lost = ", ".join(f"{count} {reason}" for reason, count in splits[name].dropped.items())
            source = getattr(args, f"{name}_file") or args.train_file or args.dataset_name
            raise UserError(f"{source}: no usable question for {name} ({lost or 'none was read'})")
        if splits[name].unanswerable == len(splits[name].examples) and not args.version_2_with_negative:
            raise UserError(f"no question of the {name} split has an answer: there is nothing to learn or to score")
    if args.version_2_with_negative is None:
        args.version_2_with_negative = any(split.unanswerable for split in splits.values())
    return splits

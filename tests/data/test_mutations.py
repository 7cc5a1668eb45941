"""What is damaged ends in a checked result whose counts add up, or in one line that names the place.

Never in another exception, a hang, or an answer that is silently another one. Every variant is made from a
fixed seed; the message of a failing one holds its number.
"""

import contextlib
import copy
import csv
import gzip
import io
import json
import pickle
import random
import shutil
import signal
import time

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from helpers.builders import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa.data.checks import locate
from qa.data.splits import load_splits
from qa.data.windows import WindowSettings, check_lengths
from qa.model.loading import check_fit, load_config, load_model, load_tokenizer, position_limit
from qa.options.arguments import DataArguments, ModelArguments
from qa.runtime.errors import UserError

SECONDS = 10  # a variant that takes longer hangs

PARAGRAPHS = [
    (
        "Ann wrote it in 1931, and Ann read it to Bob.",
        [("Who wrote it?", "Ann"), ("When?", "1931"), ("To whom?", "Bob")],
    ),
    (
        "Zoë 🙂 was born in São Tomé; 🙂 Zoë left in May.",
        [("Where?", "São Tomé"), ("Who left?", "Zoë"), ("When?", "May")],
    ),
    ("נולדה בירושלים ועברה לחיפה.", [("איפה?", "בירושלים"), ("לאן?", "לחיפה")]),
    ("Cafe\u0301 Ame\u0301lie, opened by Ire\u0301ne\nin Lyon.", [("Which?", "Ame\u0301lie"), ("Where?", "Lyon")]),
    ("The mayor, Hedo Brinas, met Mira Tasko.", [("Who met Mira?", "Hedo Brinas"), ("Whom?", "Mira Tasko")]),
]
# The last occurrence of each answer: of those that occur twice, a lost offset cannot be found again.
ROWS = [
    {
        "id": f"q{i}{j}",
        "title": "made up",
        "context": context,
        "question": question,
        "answers": [{"text": answer, "answer_start": context.rindex(answer)}],
    }
    for i, (context, questions) in enumerate(PARAGRAPHS)
    for j, (question, answer) in enumerate(questions)
]
FORMATS = ("json", "flat.json", "json.gz", "jsonl", "csv", "parquet")


def nested(rows: list[dict]) -> dict:
    """One article for each row whose context differs from that of the row before."""
    articles: list[dict] = []
    before = None
    for row in rows:
        row = copy.deepcopy(row)
        context = row.pop("context", None) if isinstance(row, dict) else None
        if before is None or context != before:
            articles.append({"title": "made up", "paragraphs": [{"context": context, "qas": []}]})
        articles[-1]["paragraphs"][0]["qas"].append(row)
        before = context
    return {"version": "1.1", "data": articles}


def encode(rows: list, form: str) -> bytes:
    if form == "csv":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, ["id", "title", "context", "question", "answers"])
        writer.writeheader()
        writer.writerows({**row, "answers": json.dumps(row["answers"])} for row in rows)
        return file.getvalue().encode()
    if form == "parquet":
        sink = io.BytesIO()
        answers = [json.dumps(row["answers"]) for row in rows]
        columns = {name: [row.get(name) for row in rows] for name in ("id", "context", "question")}
        pyarrow.parquet.write_table(pa.table({**columns, "answers": answers}), sink, compression="none")
        return sink.getvalue()
    if form == "jsonl":
        return "\n".join(json.dumps(row) for row in rows).encode()
    text = json.dumps(rows if form == "flat.json" else nested(rows), ensure_ascii="udcff" in repr(rows), indent=1)
    return gzip.compress(text.encode(), mtime=0) if form == "json.gz" else text.encode()


@contextlib.contextmanager
def limit(seconds: int):
    """Stops what runs too long, in Python code at least."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def outcome(path, variant: str, split: str = "train"):
    """The split that a file gives, checked here against what must hold of any; None for one clear line."""
    try:
        with limit(SECONDS):
            got = load_splits(DataArguments(**{f"{split}_file": str(path)}), (split,))[split]
    except UserError as error:
        message = str(error)
        assert str(path) in message and "\n" not in message and message.isprintable() and len(message) < 1500, variant
        return None
    except Exception as error:
        raise AssertionError(f"{variant}: {error!r}") from error
    lost = [problem for problem in got.problems if problem.done == "dropped"]
    mended = {problem.place for problem in got.problems if problem.done not in ("dropped", "kept")}
    assert got.read == len(got.examples) + got.dropped.total() and len(lost) == got.dropped.total(), variant
    assert len(mended) == got.repaired and len(got.places) == len(got.examples), variant
    assert all(problem.place.startswith(f"{path}, ") and problem.detail for problem in got.problems), variant
    for row in got.examples if split == "train" else ():
        assert row["context"].strip() and row["question"].strip() and row["id"].strip(), variant
        for text, start in zip(*row["answers"].values(), strict=True):
            assert start >= 0 and text.strip() and row["context"][start : start + len(text)] == text, variant
    assert sum(not row["answers"]["text"] for row in got.examples) == got.unanswerable, variant
    return got


def as_examples(rows: list[dict]) -> dict[str, tuple]:
    return {row["id"]: (row["context"], row["question"], *row["answers"][0].values()) for row in rows}


def result(got) -> dict[str, tuple]:
    return {
        row["id"]: (row["context"], row["question"], *(values[0] for values in row["answers"].values() if values))
        for row in got.examples
    }


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_whole_has_no_problem(tmp_path, form):
    path = tmp_path / f"x.{form}"
    path.write_bytes(encode(ROWS, form))
    got = outcome(path, form)
    assert result(got) == as_examples(ROWS) and not got.problems


# Bytes


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def leave_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 9, 200)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((1, 7, 300))
    return data[: at + size] + data[at:]


def zero(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((1, 16, 4096))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    odd = (
        b"\0",
        b"\xef\xbb\xbf",
        b"\x1b",
        b'"',
        b"\n",
        b"\r",
        b"\\",
        b"[" * 3000,
        b"\xff",
        b"9" * 5000,
        b"\xed\xa0\x80",
    )
    return data[:at] + rng.choice(odd) + data[at:]


def swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    size = rng.choice((1, 4, 40))
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def recode(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, or a mark before the data; of compressed data, something before or after them."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return rng.choice((b"\xef\xbb\xbf" + data, data + b"\0\0", data + b"more", gzip.compress(data), data[::-1]))
    codec = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "ascii", "utf-7", "cp037"))
    return text.encode(codec, "xmlcharrefreplace")


BYTES = (flip, flip, flip, cut, cut, leave_out, repeat, zero, insert, swap, recode)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes(tmp_path, form):
    """200 of each format; where bits flipped and nothing is reported, no question is lost and no answer moved."""
    whole_rows = as_examples(ROWS)
    whole, rng, path = encode(ROWS, form), random.Random(f"bytes {form}"), tmp_path / f"x.{form}"
    for number in range(200):
        mutate = rng.choice(BYTES)
        variant = f"{form} {number} {mutate.__name__}"
        path.write_bytes(mutate(whole, rng))
        if (got := outcome(path, variant)) is None:
            continue
        if mutate is flip and not got.problems:
            assert got.read == len(ROWS), f"{variant}: a question is lost"
            for key, (*_, text, start) in result(got).items():
                assert key not in whole_rows or (text, start) == whole_rows[key][2:], variant
        if form == "json.gz":
            assert result(got) == whole_rows, f"{variant}: a checksum guards these"


# Structure

DEEP = json.loads("[" * 400 + "]" * 400)
OTHERS = (
    None, True, False, 0, -1, 1e308, float("nan"), float("inf"), 10**30, 0.5, "", " ", "x", "7", "\0", "\u202e",
    "\ud83d", [], {}, [None], [[]], {"text": 3}, {"data": []}, ["x"], DEEP, "[" * 3000, "x" * 100_000,
)  # fmt: skip


def spots(value, found: list) -> list:
    """Every (container, key) of a JSON tree."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            spots(inner, found)
    return found


def damage(tree, rng: random.Random) -> str:
    """Changes one spot of a JSON tree in place; says how."""
    holder, key = rng.choice(spots(tree, []))
    how = rng.choice(("delete", "other", "other", "other", "exchange", "rename", "wrap", "number"))
    if how == "delete":
        del holder[key]
    elif how == "other":
        holder[key] = copy.copy(rng.choice(OTHERS))
    elif how == "exchange":
        other, place = rng.choice(spots(tree, []))
        holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice(("answer_start", "text", "context", "Context", "id\n", "\ud83d", "é"))] = holder.pop(key)
    elif how == "wrap":
        holder[key] = rng.choice(([holder[key]], {"0": holder[key]}, json.dumps(holder[key])))
    else:
        holder[key] = rng.choice((rng.randrange(-5, 60), rng.random() * 60, str(rng.randrange(60))))
    return f"{how} {key}"


@pytest.mark.parametrize(
    ("form", "split"), [("json", "train"), ("flat.json", "train"), ("jsonl", "train"), ("json", "validation")]
)
def test_damaged_structure(tmp_path, form, split):
    """150 of each: keys lost, renamed and exchanged, values of other types, one to three at once."""
    rng, path = random.Random(f"structure {form} {split}"), tmp_path / f"x.{form}"
    whole = as_examples(ROWS)
    for number in range(150):
        tree = copy.deepcopy(ROWS) if form in ("flat.json", "jsonl") else nested(ROWS)
        variant = f"{form} {number} " + ", ".join(damage(tree, rng) for _ in range(rng.choice((1, 1, 2, 3))))
        lines = "\n".join(map(json.dumps, tree)) if form == "jsonl" else json.dumps(tree)
        path.write_text(lines)
        got = outcome(path, variant, split)
        if got is None:
            continue
        known = {problem.id for problem in got.problems}
        assert split == "train" or set(got.dropped) <= {"empty question"}, "a score over fewer questions"
        for key, (context, question, *answer) in result(got).items():
            same = key in whole and (context, question) == whole[key][:2]
            if same and answer and answer[0] == whole[key][2] and answer[1] != whole[key][3]:
                assert context.count(answer[0]) > 1 or key in known, variant


# Questions spoiled in a known way


def offsets(context: str, text: str, codec: str, size: int) -> set[int]:
    """Where a text stands in its context, counted in units of ``size`` bytes."""
    places = (at for at in range(len(context)) if context[at : at + len(text)] == text)
    return {len(context[:at].encode(codec)) // size for at in places}


def spoil(row: dict, how: str, typed: bool, rng: random.Random) -> tuple[str, int | None]:
    """Changes a row in place; returns what must be done with it, and where its answer must stand then.

    Args:
        typed: the format has only text in its columns.
    """
    answer, context = row["answers"][0], row["context"]
    text, start = answer["text"], answer["answer_start"]
    mended = ("repaired", start) if context.count(text) == 1 else ("dropped", None)
    if how == "shifted":
        taken = offsets(context, text, "utf-32-le", 4) | offsets(context, text, "utf-8", 1)
        taken |= offsets(context, text, "utf-16-le", 2)
        answer["answer_start"] = rng.choice([at for at in range(len(context)) if at not in taken])
    elif how in ("utf-8", "utf-16-le"):
        answer["answer_start"] = len(context[:start].encode(how)) // (2 if how == "utf-16-le" else 1)
        mended = ("converted" if answer["answer_start"] != start else "", start)
    elif how == "outside":
        answer["answer_start"] = rng.choice((-1, -7, len(context) + 400, 10**30, -(10**400), 1e308))
    elif how == "no number":
        answer["answer_start"] = rng.choice((None, True, "3", "x", [3], {}, 2.5, float("nan"), float("-inf")))
    elif how == "float":
        answer["answer_start"], mended = float(start), ("", start)
    elif how == "control":
        row["question"], mended = row["question"] + rng.choice("\0\x1b\x07\ufffd"), ("kept", start)
    elif how == "one more":
        row["answers"], mended = [answer, {"text": "not there", "answer_start": 0}], ("answer left out", start)
    else:
        mended = ("dropped", None)
    if how == "blank":
        answer["text"] = rng.choice((" ", "\t\n", "\u2003"))
    elif how == "elsewhere":
        answer["text"] = text + "?"
    elif how == "no text":
        answer["text"] = rng.choice((None, 3, [text], {"a": 1}))
    elif how == "no answers":
        row["answers"] = rng.choice((3, "x", {"a": 1}, [text], {"text": [text], "answer_start": []}))
    elif how == "no question":
        row["question"] = rng.choice((None, "", " \n") if typed else (None, "", " \n", 3, ["x"], float("nan")))
    elif how == "no id":
        row["id"] = rng.choice((None, "", " ") if typed else (None, "", " ", True, [1], {}))
    elif how == "half a character":
        row[rng.choice(("question", "id"))] += "\udcff"
    return mended


OFFSETS = ("shifted", "shifted", "utf-8", "utf-8", "utf-16-le", "outside", "no number", "float")
TEXTS = ("control", "one more", "blank", "elsewhere", "no text", "no answers", "no question", "no id")


@pytest.mark.parametrize("form", FORMATS)
def test_spoiled_questions(tmp_path, form):
    """150 of each format, one to three questions spoiled: each mended or dropped as it must be, the others whole."""
    rng, path, typed = random.Random(f"spoiled {form}"), tmp_path / f"x.{form}", form in ("csv", "parquet")
    kinds = OFFSETS + TEXTS + (() if typed else ("half a character",))
    for number in range(150):
        rows = copy.deepcopy(ROWS)
        expected, done = as_examples(ROWS), []
        variant = f"{form} {number}"
        for index in rng.sample(range(len(rows)), rng.randrange(1, 4)):
            key, how = rows[index]["id"], rng.choice(kinds)
            variant += f", {key} {how}"
            what, start = spoil(rows[index], how, typed, rng)
            done += [what] if what else []
            if start is None:
                del expected[key]
            else:
                expected[key] = (rows[index]["context"], rows[index]["question"], expected[key][2], start)
        path.write_bytes(encode(rows, form))
        got = outcome(path, variant)
        assert result(got) == expected, variant
        assert sorted(problem.done for problem in got.problems) == sorted(done), variant


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.data())
def test_an_answer_is_where_it_is_said_to_be(data):
    """Whatever the offset: the text stands there, and an offset in characters, bytes or units leads to its own."""
    context = data.draw(st.text("ab é🙂א\u0301", min_size=1, max_size=30))
    begin = data.draw(st.integers(0, len(context) - 1))
    text = context[begin : data.draw(st.integers(begin + 1, len(context)))]
    start = data.draw(st.integers(-3, 130))
    at, reason = locate(context, text, start)
    places = offsets(context, text, "utf-32-le", 4)
    assert at in places or (at == -1 and (len(places) > 1))
    assert (reason is None) == (start in places)
    if at >= 0 and reason:
        coded = {len(context[:at].encode("utf-8")), len(context[:at].encode("utf-16-le")) // 2}
        assert len(places) == 1 or start in coded


def test_a_context_of_a_megabyte(tmp_path):
    """Ten questions, their offsets right, in bytes, and wrong: read in seconds."""
    context = "Zoë met Ann. " * 80_000 + "Then she met Bob."
    starts = [context.index("Bob"), len(context[: context.index("Bob")].encode()), 5, None, 10**9] * 2
    rows = [
        {"id": i, "context": context, "question": "Whom?", "answers": [{"text": "Bob", "answer_start": start}]}
        for i, start in enumerate(starts)
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    began = time.perf_counter()
    got = outcome(path, "a megabyte")
    assert got.repaired == 8 and len(got.examples) == 10 and time.perf_counter() - began < SECONDS


# A model's folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_model):
    """A tiny ALBERT with its tokenizer, as train.py saves one."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(1)
    AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(model_folder):
    return load_file(model_folder / "model.safetensors")


def use(folder, variant: str, changed: bool) -> dict | None:
    """The weights of a model that loads and answers; None for one clear line. Anything else fails.

    Where numbers were ``changed`` its logits may be NaN for some texts, which an evaluation calls diverged.
    """
    args = ModelArguments(model_name_or_path=str(folder))
    try:
        with limit(SECONDS):
            tokenizer, config = load_tokenizer(args), load_config(args)
            check_fit(tokenizer, config)
            check_lengths(WindowSettings(32, 4, 8), tokenizer, position_limit(config))
            model = load_model(args, config, training=False)
            batch = tokenizer(["Where?", "Who?"], ["Mira was born in Sollen."] * 2, padding=True, return_tensors="pt")
            with torch.no_grad():
                output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    except UserError as error:
        message = str(error)
        assert str(folder) in message or message.startswith("max_seq_length 32 is more than the model"), variant
        assert message.isprintable() and len(message) < 1500, variant
        return None
    except BaseException as error:  # a panic of native code is no Exception
        raise AssertionError(f"{variant}: {error!r}") from error
    assert changed or (output.start_logits.isfinite() & output.end_logits.isfinite()).all(), variant
    return model.state_dict()


def check(folder, variant: str, weights: dict, changed: bool = False) -> bool:
    """Uses a folder: if that succeeds, with the weights that were saved, all of them. Returns whether it did."""
    loaded = use(folder, variant, changed)
    if loaded is None:
        return False
    assert loaded.keys() >= weights.keys(), variant
    if not changed:
        assert all(torch.equal(loaded[key], value) for key, value in weights.items()), variant
    return True


def test_damaged_weights(tmp_path, model_folder, weights):
    """120 variants of the file; only what is inside the numbers can change and not be seen."""
    folder, rng = tmp_path / "m", random.Random("weights")
    shutil.copytree(model_folder, folder)
    whole, path = (model_folder / "model.safetensors").read_bytes(), folder / "model.safetensors"
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert check(folder, "whole", weights)
    for number in range(120):
        how = rng.choice(("header", "header", "header", "length", "numbers", *BYTES))
        data, at = bytearray(whole), None
        if callable(how):
            data = how(whole, rng)
            at = begin if data[:begin] == whole[:begin] and len(data) == len(whole) else None
        else:
            low, high = {"header": (8, begin), "length": (0, 8), "numbers": (begin, len(whole))}[how]
            at = rng.randrange(low, high)
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        check(folder, f"{number} {how} {at}", weights, changed=at is not None and at >= begin)


def test_incomplete_and_odd_weights(tmp_path, model_folder, weights):
    whole, path = (model_folder / "model.safetensors").read_bytes(), tmp_path / "m/model.safetensors"
    shutil.copytree(model_folder, tmp_path / "m")
    for name, data in (
        ("empty", b""),
        ("half", whole[: len(whole) // 2]),
        ("zeros", bytes(len(whole))),
        ("one byte less", whole[:-1]),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("huge header", (1 << 62).to_bytes(8, "little") + whole[8:]),
    ):
        path.write_bytes(data)
        assert not check(tmp_path / "m", name, weights), name
    for key, value in weights.items():
        for name, changed in (
            ("lost", {other: kept for other, kept in weights.items() if other != key}),
            ("NaN", weights | {key: torch.full_like(value, float("nan"))}),
            ("other shape", weights | {key: torch.zeros(*value.shape, 2)}),
        ):
            save_file(changed, path, {"format": "pt"})
            assert not check(tmp_path / "m", f"{key} {name}", weights), f"{key} {name}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_settings_of_a_model(tmp_path, model_folder, weights, name):
    """60 of each file: other values and types, lost keys, damaged bytes."""
    folder, rng = tmp_path / "m", random.Random(name)
    shutil.copytree(model_folder, folder)
    whole = (model_folder / name).read_bytes()
    for number in range(60):
        if rng.random() < 0.7:
            tree = json.loads(whole)
            variant = f"{name} {number} " + ", ".join(damage(tree, rng) for _ in range(rng.choice((1, 1, 2))))
            data = json.dumps(tree).encode()
        else:
            mutate = rng.choice(BYTES)
            variant, data = f"{name} {number} {mutate.__name__}", mutate(whole, rng)
        (folder / name).write_bytes(data)
        check(folder, variant, weights)


SETTINGS = {
    "num_hidden_layers": (0, -1, 10**9, "2", None),
    "num_hidden_groups": (0, 2, 10**9),
    "inner_group_num": (0, 2, 10**9),
    "hidden_size": (0, 33, 10**9),
    "embedding_size": (8, 10**9),
    "num_attention_heads": (0, 3, 64, -2),
    "vocab_size": (0, 3, 10**12, None),
    "max_position_embeddings": (0, 8, 10**9),
    "type_vocab_size": (0, 1),
    "hidden_act": ("no such", 3),
    "layer_norm_eps": (float("nan"), "x"),
    "hidden_dropout_prob": (7, "x"),
    "pad_token_id": (10**6, -(10**6)),
    "chunk_size_feed_forward": (3,),
    "return_dict": (False,),
    "output_hidden_states": (True,),
    "id2label": ({"0": "a", "1": "b", "2": "c"}, {}, "x"),
    "model_type": ("bert", "gpt2", "t5", "vit", "no such", None, 3),
    "dtype": ("float16", "no such", 3),
    "quantization_config": ({"quant_method": "bitsandbytes"}, {"quant_method": "no such"}, "x"),
    "auto_map": ({"AutoConfig": "planted.Config", "AutoModelForQuestionAnswering": "planted.Model"},),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_values_in_a_configuration(tmp_path, model_folder, weights, name):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    for value in SETTINGS[name]:
        config = json.loads((model_folder / "config.json").read_text()) | {name: value}
        (folder / "config.json").write_text(json.dumps(config))
        check(folder, f"{name} {value}", weights)
    assert not (tmp_path / "ran").exists()


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_never_loaded(tmp_path, model_folder, weights, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    folder, ran = tmp_path / "m", tmp_path / "ran"
    harmful = pickle.dumps({"albert.embeddings.word_embeddings.weight": Planted(ran)})
    index = {"metadata": {}, "weight_map": {key: "pytorch_model.bin" for key in weights}}
    for names, safe in (
        (("pytorch_model.bin",), False),
        (("pytorch_model.bin",), True),
        (("model.safetensors",), False),
        (("pytorch_model.bin", "pytorch_model.bin.index.json"), False),
        (("pytorch_model.bin", "model.safetensors.index.json"), False),
        (("tokenizer.pkl", "vocab.pkl", "training_args.bin", "optimizer.pt"), True),
    ):
        shutil.copytree(model_folder, folder)
        if not safe:
            (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(json.dumps(index).encode() if name.endswith(".json") else harmful)
        assert check(folder, str(names), weights) == safe
        if not safe:
            with pytest.raises(UserError) as error:
                load_model(ModelArguments(str(folder)), load_config(ModelArguments(str(folder))), training=True)
            assert "torch.load" not in str(error.value), names
        assert not ran.exists(), names
        shutil.rmtree(folder)
    pickle.loads(harmful)["albert.embeddings.word_embeddings.weight"].close()
    assert ran.exists(), "it would have run"


def test_missing_files_and_other_tokenizers(tmp_path, model_folder, weights):
    folder = tmp_path / "m"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copytree(model_folder, folder)
        (folder / name).unlink()
        assert not check(folder, f"no {name}", weights)
        (folder / name).mkdir()
        assert not check(folder, f"{name} is a folder", weights)
        (folder / name).rmdir()
        (folder / name).write_bytes(b"")
        assert not check(folder, f"{name} is empty", weights)
        shutil.rmtree(folder)
    for family in ("roberta", "xlnet"):
        shutil.copytree(model_folder, folder)
        FAMILIES[family]().save_pretrained(folder)
        assert not check(folder, family, weights), "400 pieces for 200, and other files of 90"
        shutil.rmtree(folder)

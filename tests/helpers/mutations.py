"""Random corruption of files and JSON trees, and a time limit; every variant comes from a seeded generator."""

import contextlib
import copy
import gzip
import json
import random
import signal

TIME_LIMIT = 10  # seconds; a variant that takes longer counts as hanging


@contextlib.contextmanager
def time_limit(seconds: int = TIME_LIMIT):
    """Raise TimeoutError in Python code that runs for too long; never on Windows, which has no SIGALRM."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def remove_bytes(data: bytes, rng: random.Random) -> bytes:
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
    """Return text in another encoding, or with a byte order mark; binary data with something before or after it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return rng.choice((b"\xef\xbb\xbf" + data, data + b"\0\0", data + b"more", gzip.compress(data), data[::-1]))
    codec = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "ascii", "utf-7", "cp037"))
    return text.encode(codec, "xmlcharrefreplace")


MUTATIONS = (flip, flip, flip, cut, cut, remove_bytes, repeat, zero, insert, swap, recode)

DEEP = json.loads("[" * 400 + "]" * 400)
ODD_VALUES = (
    None, True, False, 0, -1, 1e308, float("nan"), float("inf"), 10**30, 0.5, "", " ", "x", "7", "\0", "\u202e",
    "\ud83d", [], {}, [None], [[]], {"text": 3}, {"data": []}, ["x"], DEEP, "[" * 3000, "x" * 100_000,
)  # fmt: skip


def all_keys(value, found: list) -> list:
    """Return every (container, key) of a JSON tree."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            all_keys(inner, found)
    return found


def mutate_tree(tree, rng: random.Random) -> str:
    """Change one value of a JSON tree in place, and return a description of the change."""
    holder, key = rng.choice(all_keys(tree, []))
    how = rng.choice(("delete", "other", "other", "other", "exchange", "rename", "wrap", "number"))
    if how == "delete":
        del holder[key]
    elif how == "other":
        holder[key] = copy.copy(rng.choice(ODD_VALUES))
    elif how == "exchange":
        other, place = rng.choice(all_keys(tree, []))
        holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice(("answer_start", "text", "context", "Context", "id\n", "\ud83d", "é"))] = holder.pop(key)
    elif how == "wrap":
        holder[key] = rng.choice(([holder[key]], {"0": holder[key]}, json.dumps(holder[key])))
    else:
        holder[key] = rng.choice((rng.randrange(-5, 60), rng.random() * 60, str(rng.randrange(60))))
    return f"{how} {key}"

"""The forms in which questions and contexts may be given to a call, as the removed pipeline took them."""

from collections.abc import Iterable, Mapping
from types import GeneratorType

from torch.utils.data import Dataset

from qa.runtime.errors import UserError


def first_input(inputs: tuple, options: dict) -> tuple[tuple, dict]:
    """Return a call's inputs, which may be named ``data`` or ``X``, and its other options."""
    named = [options[name] for name in ("data", "X") if options.get(name) is not None]
    if len(named) + bool(inputs) > 1:
        raise UserError("give the questions once: as data, as X, or without a name")
    return inputs or tuple(named), {name: value for name, value in options.items() if name not in ("data", "X")}


def as_pairs(inputs: tuple, question, context) -> tuple[list[tuple[str, str]], bool]:
    """Return (question, context) pairs of whatever a call was given, and whether it was a single one.

    Raises:
        UserError: they have another form, or a context is empty; of a generator or a torch dataset, whose contexts the
            pipeline did not check either, it may be.
    """
    checked = True
    if inputs and not (question is None and context is None):
        raise UserError("give question and context both by name, or neither")
    if not inputs:
        pairs, single = broadcast(question, context)
    elif len(inputs) == 2 and all(isinstance(item, str) for item in inputs):
        pairs, single = [inputs], True
    elif len(inputs) == 1 and is_columns(inputs[0]):
        pairs, single = broadcast(inputs[0]["question"], inputs[0]["context"])
    else:
        checked = not isinstance(inputs[0], (GeneratorType, Dataset))
        single = len(inputs) == 1 and is_example(inputs[0])
        pairs = [as_pair(item) for item in (as_list(inputs[0]) if len(inputs) == 1 and not single else inputs)]
    pairs = [as_text_pair(pair) for pair in pairs]
    if checked and not all(context for _, context in pairs):
        raise UserError("the context is empty")
    return pairs, single


def as_text_pair(item) -> tuple[str, str]:
    """Return question and context of an example, or of the two in a tuple; raise UserError if they are not text."""
    question, context = item if isinstance(item, (tuple, list)) and len(item) == 2 else as_pair(item)
    if not (isinstance(question, str) and isinstance(context, str)):
        raise UserError("question and context must both be text")
    return question, context


def broadcast(question, context) -> tuple[list[tuple[str, str]], bool]:
    """Return pairs of two texts, of two columns of the same length, or of several questions and one context."""
    several = [is_column(part) for part in (question, context)]
    questions = list(question) if several[0] else [question]
    contexts = list(context) if several[1] else [context] * len(questions)
    if len(questions) != len(contexts):
        raise UserError(f"{len(questions)} questions and {len(contexts)} contexts: give as many of each")
    return list(zip(questions, contexts, strict=True)), not any(several)


def is_column(part) -> bool:
    """Return whether an input holds several texts: a list, an array, or a column of a table."""
    return isinstance(part, Iterable) and not isinstance(part, (str, bytes, Mapping))


def is_columns(item) -> bool:
    """Return whether an input is a dictionary of columns: several examples in one."""
    return isinstance(item, Mapping) and is_column(item.get("question")) and "context" in item


def is_example(item) -> bool:
    """Return whether an input is one example: a dictionary, or a ``SquadExample`` of transformers."""
    return isinstance(item, Mapping) or (hasattr(item, "question_text") and hasattr(item, "context_text"))


def as_pair(item) -> tuple[str, str]:
    """Return question and context of an example."""
    if isinstance(item, Mapping) and {"question", "context"} <= item.keys():
        return item["question"], item["context"]
    if not isinstance(item, Mapping) and is_example(item):
        return item.question_text, item.context_text
    raise UserError("give question and context, or dictionaries with these two keys")


def as_list(items) -> list:
    """Return the examples of an iterable, or of a dataset with an index only."""
    try:
        return [items] if isinstance(items, str) else list(items)
    except TypeError:
        return [items]

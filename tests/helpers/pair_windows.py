"""Reference implementation: the windows of a batch, in plain loops over the pairs that transformers encodes."""

from transformers import PreTrainedTokenizerBase

from qa.data.windows import WindowSettings


def cut_question(question: str, tokenizer: PreTrainedTokenizerBase, longest: int) -> str:
    while True:
        encoded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoded["input_ids"]) <= longest:
            return question
        question = question[: min(encoded["offset_mapping"][longest - 1][1], len(question) - 1)]


def trim(context: str, start: int, end: int) -> list[int]:
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return [start, end]


def find_label(offsets: list[list[int]], answers: dict) -> tuple[int, int] | None:
    """Return the first and last token of the first answer in a window; None if it is not completely there."""
    if not offsets or not answers["text"] or answers["answer_start"][0] < 0:
        return None
    text, begin = answers["text"][0], answers["answer_start"][0]
    begin, end = begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    shared = [i for i, (start, stop) in enumerate(offsets) if start < end and stop > begin]
    if not shared or offsets[0][0] > begin or offsets[-1][1] < end:
        return None
    first = max((i for i in shared if offsets[i][0] <= begin), default=shared[0])
    last = min((i for i in shared if offsets[i][1] >= end), default=shared[-1])
    return (shared[0], shared[-1]) if first > last else (first, last)


def reference_windows(
    examples: dict[str, list], indices: list[int], tokenizer: PreTrainedTokenizerBase, settings: WindowSettings
) -> list[dict]:
    """Return one dictionary for each window, with the columns of ``FEATURES``."""
    questions = [cut_question(text, tokenizer, settings.max_query_length) for text in examples["question"]]
    context_first = tokenizer.padding_side == "left"
    pair = (examples["context"], questions) if context_first else (questions, examples["context"])
    encoded = tokenizer(
        *map(list, pair),
        truncation="only_first" if context_first else "only_second",
        max_length=settings.max_seq_length,
        stride=settings.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    rows, seen = [], set()
    for number, example in enumerate(encoded["overflow_to_sample_mapping"]):
        if settings.first_window_only and example in seen:
            continue
        seen.add(example)
        ids, context = encoded["input_ids"][number], examples["context"][example]
        of_context = 0 if context_first else 1
        inside = [i for i, part in enumerate(encoded.sequence_ids(number)) if part == of_context]
        offsets = [trim(context, *encoded["offset_mapping"][number][i]) for i in inside]
        start, cls_index = inside[0] if inside else 0, len(ids) - 1 if context_first else 0
        label = find_label(offsets, examples["answers"][example])
        rows.append(
            {
                "example_index": indices[example],
                "input_ids": ids,
                "token_type_ids": encoded["token_type_ids"][number],
                "offset_mapping": offsets,
                "context_start": start,
                "cls_index": cls_index,
                "start_positions": cls_index if label is None else start + label[0],
                "end_positions": cls_index if label is None else start + label[1],
                "question_cut": questions[example] != examples["question"][example],
                "length": len(ids),
            }
        )
    return rows

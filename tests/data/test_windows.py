"""Windows and labels, compared with manual examples and with plain loops over tokens."""

import numpy as np
import pytest
from datasets import Dataset
from helpers.builders import SHARED, roberta
from transformers import AutoTokenizer

from qa.data.examples import FEATURES
from qa.data.labels import label
from qa.data.make_windows import make_windows
from qa.data.splits import load_splits
from qa.data.tokenized_text import cut_questions
from qa.data.window_cache import content_key, load_windows
from qa.data.windows import WINDOW_FORMAT, WindowArrays, WindowSettings, check_lengths
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

CONTEXT = "Mira Talven was born in Sollen in 1931. She built the first bridge over the Vindel river in 1957."
ODD = '  Zoë Àrnadóttir  said: "It\'s late" at 5\u202fpm… and left for São Tomé 🙂 by the night-train.  '


def example(context: str, answer: str, question: str = "Where was she born?", start: int | None = None) -> dict:
    start = context.index(answer) if start is None and answer else start
    answers = {"text": [answer] if answer else [], "answer_start": [start] if answer else []}
    return {"id": "x", "title": "", "context": context, "question": question, "answers": answers}


def windows_of(examples: list[dict], tokenizer, **settings) -> tuple[Dataset, WindowArrays]:
    batch = {key: [row[key] for row in examples] for key in FEATURES}
    settings = WindowSettings(**{"max_seq_length": 64, "doc_stride": 8, "max_query_length": 24} | settings)
    windows = Dataset(make_windows(batch, list(range(len(examples))), tokenizer, settings))
    return windows, WindowArrays.from_dataset(windows)


def decoded(context: str, arrays: WindowArrays, row: int) -> str:
    shift = arrays.tokens[row] - arrays.context_start[row]
    begin = arrays.offset_mapping[shift + arrays.start_positions[row], 0]
    return context[begin : arrays.offset_mapping[shift + arrays.end_positions[row], 1]]


def test_label():
    #            Ann   wrote    it   (pieces of "Annie")
    offsets = np.array([[0, 3], [3, 5], [6, 11], [12, 14]])
    tokens = np.array([0, 4, 4])  # one window of four tokens, one of none
    start, end = label(offsets, tokens, np.array([[6, 11], [6, 11]]), np.array([5, 0]), np.array([0, 9]))
    assert (start.tolist(), end.tolist()) == ([7, 9], [7, 9])
    start, end = label(offsets, tokens, np.array([[0, 5], [0, 5]]), np.array([5, 0]), np.array([0, 9]))
    assert (start[0], end[0]) == (5, 6)
    start, end = label(offsets, tokens, np.array([[8, 14], [0, 1]]), np.array([5, 0]), np.array([0, 9]))
    assert (start[0], end[0]) == (7, 8), "an answer that begins inside a token takes the whole token"
    start, end = label(offsets, tokens, np.array([[12, 16], [0, 1]]), np.array([5, 0]), np.array([0, 9]))
    assert (start[0], end[0]) == (0, 0), "an answer that continues after the window is not in it"
    start, end = label(offsets, tokens, np.array([[-1, -1], [-1, -1]]), np.array([5, 0]), np.array([0, 9]))
    assert (start.tolist(), end.tolist()) == ([0, 9], [0, 9])


def test_label_where_tokens_share_a_character():
    offsets = np.array([[0, 1], [0, 1], [1, 3], [3, 4], [3, 4], [3, 4]])  # a space mark alone; "…" as three dots
    whole = np.array([0, 6])
    start, end = label(offsets, whole, np.array([[0, 3]]), np.array([0]), np.array([-1]))
    assert (start[0], end[0]) == (1, 2)
    start, end = label(offsets, whole, np.array([[3, 4]]), np.array([0]), np.array([-1]))
    assert (start[0], end[0]) == (3, 5), "an answer that is such a character alone keeps all its tokens"


def test_label_over_characters_without_a_token():
    offsets = np.array([[0, 3], [5, 8]])  # the tokenizer dropped characters 3 and 4
    start, end = label(offsets, np.array([0, 2]), np.array([[4, 8]]), np.array([0]), np.array([-1]))
    assert (start[0], end[0]) == (1, 1)


def test_first_and_last_token_are_answers(tokenizer):
    """Other implementations took them for unanswerable ones (FARM 698, 552)."""
    for answer in ("Mira", "1957."):
        _, arrays = windows_of([example(CONTEXT, answer)], tokenizer, max_seq_length=200)
        assert len(arrays) == 1 and arrays.labelled.all()
        assert decoded(CONTEXT, arrays, 0) == answer


@pytest.mark.parametrize(
    "answer", ["Zoë Àrnadóttir", "said", "It's late", "5\u202fpm", "São Tomé", "Tomé 🙂", "night-train"]
)
def test_round_trip_of_odd_characters(tokenizer, answer):
    _, arrays = windows_of([example(ODD, answer)], tokenizer, max_seq_length=200)
    text = decoded(ODD, arrays, 0)
    assert arrays.labelled.all() and answer in text
    assert text == text.strip(), "no token begins or ends on white space"
    assert len(text) <= len(answer) + 2, "at most a piece of punctuation more than the answer"


def test_white_space_around_an_answer_is_not_part_of_it(tokenizer):
    for context, answer in ((" Ann wrote it.", " Ann"), ("It was Ann ", "Ann ")):
        _, arrays = windows_of([example(context, answer)], tokenizer)
        assert arrays.labelled.all() and decoded(context, arrays, 0) == "Ann"


def test_windows_of_a_small_example(bert_tokenizer):
    """20 single-letter tokens; 12 a window less 3 special and 1 question token makes 8, in steps of 8 - 3."""
    context = " ".join("abcdefghij" * 2)
    windows, arrays = windows_of(
        [example(context, "j", "a")], bert_tokenizer, max_seq_length=12, doc_stride=3, max_query_length=4
    )
    starts = [context[o[0]] + str(o[0]) for o in arrays.offset_mapping[arrays.tokens[:-1]]]
    assert starts == ["a0", "f10", "a20", "f30"]
    assert arrays.length.tolist() == [12, 12, 12, 9]
    assert arrays.context_start.tolist() == [3] * 4
    # The j at character 18 is context token 9: the fifth of the second window, not in the first.
    assert arrays.start_positions.tolist() == arrays.end_positions.tolist() == [0, 3 + 4, 0, 0]
    assert windows["token_type_ids"][3] == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_windows_cover_the_context(tokenizer):
    context = " ".join([CONTEXT, ODD] * 8)
    windows, arrays = windows_of([example(context, "Sollen")], tokenizer)
    assert len(windows) > 3 and arrays.length.max() <= 64
    covered = np.zeros(len(context), dtype=bool)
    for begin, end in arrays.offset_mapping:
        covered[begin:end] = True
    assert all(covered[i] or character.isspace() for i, character in enumerate(context))
    # Neighbouring windows share exactly doc_stride tokens.
    for row in range(1, len(arrays)):
        before, begin = arrays.offset_mapping[: arrays.tokens[row]], arrays.tokens[row]
        assert before[-8:].tolist() == arrays.offset_mapping[begin : begin + 8].tolist()


def test_cls_is_last_and_context_first_in_xlnet():
    from helpers.builders import xlnet

    tokenizer = xlnet()
    windows, arrays = windows_of([example(CONTEXT * 5, "Sollen")], tokenizer)
    for row, window in enumerate(windows):
        assert window["cls_index"] == len(window["input_ids"]) - 1
        assert window["input_ids"][window["cls_index"]] == tokenizer.cls_token_id
        assert window["context_start"] == 0
        assert arrays.labelled[row] == (window["start_positions"] != window["cls_index"])
    assert not arrays.labelled.all(), "a window without the answer points to the CLS token, at its end"
    assert decoded(CONTEXT, arrays, 0) == "Sollen"


def test_two_separators_are_not_context():
    tokenizer = roberta()
    windows, _ = windows_of([example(CONTEXT, "Sollen")], tokenizer, max_seq_length=200)
    window = windows[0]
    separator = tokenizer.sep_token_id
    begin = window["context_start"]
    assert window["input_ids"][begin - 2 : begin] == [separator, separator]
    assert len(window["offset_mapping"]) == len(window["input_ids"]) - begin - 1


def test_long_question_is_truncated_and_counted(tokenizer):
    long = "Where was Mira Talven who built the first bridge over the Vindel river born in Sollen? " * 4
    windows, arrays = windows_of([example(CONTEXT, "Sollen", long), example(CONTEXT, "Sollen")], tokenizer)
    assert [bool(cut) for cut in windows["question_cut"]] == [i == 0 for i in arrays.example_index]
    _, tokens, cut = cut_questions([long, "Where?"], tokenizer, 24)
    assert tokens.lengths[0] <= 24 and cut.tolist() == [True, False]


def test_empty_context_and_question_of_spaces_make_a_window(tokenizer):
    _, arrays = windows_of([example("", ""), example("   ", "")], tokenizer)
    assert len(arrays) == 2 and not arrays.labelled.any()
    assert len(arrays.offset_mapping) == 0 or (np.diff(arrays.offset_mapping) == 0).all()


def test_stride_that_leaves_no_room(bert_tokenizer):
    with pytest.raises(UserError, match="doc_stride 128 leaves no room"):
        check_lengths(WindowSettings(max_seq_length=128, doc_stride=128), bert_tokenizer, None)
    with pytest.raises(UserError, match=r"question x has .* lower doc_stride"):
        windows_of([example(CONTEXT, "Sollen", "where " * 9)], bert_tokenizer, max_seq_length=32, doc_stride=24)
    with pytest.raises(UserError, match=r"max_seq_length 1024 .* at most 512"):
        check_lengths(WindowSettings(max_seq_length=1024), bert_tokenizer, None)


def test_first_window_only(bert_tokenizer):
    _, arrays = windows_of([example(CONTEXT * 9, "Sollen")] * 2, bert_tokenizer, first_window_only=True)
    assert arrays.example_index.tolist() == [0, 1]


def test_cache_is_found_by_content(tmp_path, bert_tokenizer, monkeypatch):
    args = DataArguments(max_seq_length=64, doc_stride=8)
    rows = {key: [value] for key, value in example(CONTEXT, "Sollen").items()}
    first = load_windows(Dataset.from_dict(rows, features=FEATURES), bert_tokenizer, args, str(tmp_path), "train")
    settings = WindowSettings.from_args(args)
    key = content_key(Dataset.from_dict(rows, features=FEATURES), bert_tokenizer, settings)
    monkeypatch.setattr(
        "qa.data.make_windows.make_windows", None
    )  # a second call would fail if it did not find the first's
    again = load_windows(Dataset.from_dict(rows, features=FEATURES), bert_tokenizer, args, str(tmp_path), "train")
    assert again[:] == first[:]
    other = Dataset.from_dict({**rows, "question": ["Who?"]}, features=FEATURES)
    assert content_key(other, bert_tokenizer, settings) != key
    assert content_key(Dataset.from_dict(rows, features=FEATURES), bert_tokenizer, WindowSettings()) != key


def test_cache_key_depends_on_data_tokenizer_lengths_and_format(bert_tokenizer, monkeypatch):
    data = Dataset.from_dict({key: [value] for key, value in example(CONTEXT, "Sollen").items()}, features=FEATURES)
    key = content_key(data, bert_tokenizer, WindowSettings())
    bert_tokenizer("a", truncation=True, padding="max_length", max_length=8)
    assert content_key(data, bert_tokenizer, WindowSettings()) == key, "the last call's lengths are not the tokenizer"
    assert content_key(data, roberta(), WindowSettings()) != key
    for name, value in (("padding_side", "left"), ("truncation_side", "left"), ("split_special_tokens", True)):
        with monkeypatch.context() as patch:
            patch.setattr(bert_tokenizer, name, value)
            assert content_key(data, bert_tokenizer, WindowSettings()) != key, name
    monkeypatch.setattr("qa.data.window_cache.WINDOW_FORMAT", WINDOW_FORMAT + 1)
    assert content_key(data, bert_tokenizer, WindowSettings()) != key


def reference_labels(tokenizer, batch: dict) -> list[tuple]:
    """Return the labels computed token by token, like the Hugging Face example."""
    encoded = tokenizer(
        batch["question"],
        batch["context"],
        truncation="only_second",
        max_length=384,
        stride=128,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows = []
    for i, offsets in enumerate(encoded["offset_mapping"]):
        ids, sequence = encoded["input_ids"][i], encoded.sequence_ids(i)
        answers = batch["answers"][encoded["overflow_to_sample_mapping"][i]]
        begin = answers["answer_start"][0]
        end = begin + len(answers["text"][0])
        start, stop = sequence.index(1), len(ids) - 1 - sequence[::-1].index(1)
        if offsets[start][0] > begin or offsets[stop][1] < end:
            rows.append((ids, 0, 0))
            continue
        while start < len(offsets) and offsets[start][0] <= begin:
            start += 1
        while offsets[stop][1] >= end:
            stop -= 1
        rows.append((ids, start - 1, stop + 1))
    return rows


def test_real_windows_equal_the_reference(shared, tmp_path):
    """All windows of the 1.1 dev set with the real ALBERT tokenizer: 10,808 at 384/128, mean 178.8 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "albert-base-v2")
    args = DataArguments(validation_file=str(shared / "data/squad/dev-v1.1.json.gz"))
    examples = load_splits(args, ("validation",))["validation"].examples
    windows = load_windows(examples, tokenizer, args, str(tmp_path), "validation")
    assert (len(examples), len(windows)) == (10570, 10808)
    assert round(float(WindowArrays.from_dataset(windows).length.mean()), 1) == 178.8
    expected = []
    for begin in range(0, len(examples), 1000):
        expected += reference_labels(tokenizer, examples[begin : begin + 1000])
    columns = windows["input_ids"][:], windows["start_positions"][:], windows["end_positions"][:]
    assert list(zip(*columns, strict=True)) == expected

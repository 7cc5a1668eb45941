"""``pipeline`` takes what the pipeline of transformers 4.57 took, or names what to write instead.

The cases are those of ``tests/pipelines/test_pipelines_question_answering.py`` of that release, and of its signature.
"""

import os
import re

import datasets
import pandas
import pytest
import torch
from helpers.commands import run, train_tiny
from helpers.documents import REPOSITORY
from torch.utils.data import Dataset
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import ask
from qa.runtime.errors import UserError

QUESTION, CONTEXT = "Where was Zoë born?", "Zoë was born in Sollen in 1931. Mira was born in Ørby."
OF_PIPELINE = (
    *("task", "model", "config", "tokenizer", "feature_extractor", "image_processor", "processor", "framework"),
    *("revision", "use_fast", "token", "device", "device_map", "dtype", "torch_dtype", "trust_remote_code"),
    *("model_kwargs", "pipeline_class", "use_auth_token", "modelcard"),
)
OF_A_CALL = (
    *("question", "context", "data", "X", "top_k", "topk", "doc_stride", "max_answer_len", "max_seq_len", "padding"),
    *("max_question_len", "handle_impossible_answer", "align_to_words", "batch_size", "num_workers"),
)
PAIR = {"question": QUESTION, "context": CONTEXT}
EMPTY = {"score": 0.0, "start": 0, "end": 0, "answer": ""}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model) -> str:
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output)
    return str(output)


@pytest.fixture(scope="module")
def answerer(trained):
    return ask.pipeline("question-answering", model=trained)


@pytest.fixture(scope="module")
def answer(answerer) -> dict:
    return answerer(question=QUESTION, context=CONTEXT)


def outcome(call, *given):
    """Return what a call returns, or the exception that it raises."""
    try:
        return call(*given)
    except Exception as error:
        return error


class Examples(Dataset):
    """A dataset with an index only, as people write them for torch."""

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class SquadExample:
    """What ``QuestionAnsweringPipeline.create_sample`` returned, as far as it was read."""

    question_text, context_text = QUESTION, CONTEXT


@pytest.mark.parametrize(
    "call",
    [
        lambda a: a(data=PAIR),
        lambda a: a(X=PAIR),
        lambda a: a(data=[PAIR])[0],
        lambda a: a(X=[PAIR, PAIR])[1],
        lambda a: a(Examples(PAIR, PAIR))[1],
        lambda a: a({"question": [QUESTION, QUESTION], "context": [CONTEXT, CONTEXT]})[1],
        lambda a: a({"question": [QUESTION, QUESTION], "context": CONTEXT})[1],
        lambda a: a(PAIR | {"id": "1", "answers": {"text": ["Sollen"], "answer_start": [16]}}),
        lambda a: a(SquadExample()),
        lambda a: a([SquadExample()])[0],
        lambda a: a(**PAIR, topk=1, padding="max_length", num_workers=2),
        lambda a: a(**PAIR, top_k=None, max_answer_len=None),
    ],
)
def test_forms_of_a_call(answerer, answer, call):
    assert outcome(call, answerer) == answer | {"score": pytest.approx(answer["score"], abs=1e-6)}


def test_topk_is_top_k(answerer):
    assert answerer(**PAIR, topk=3) == answerer(**PAIR, top_k=3)
    assert len(answerer(**PAIR, topk=3)) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda a: a(question="", context=CONTEXT),
        lambda a: a(question=None, context=CONTEXT),
        lambda a: a(question=QUESTION, context=""),
        lambda a: a(question=QUESTION, context=None),
        lambda a: a(None, CONTEXT),
        lambda a: a(QUESTION, None),
        lambda a: a(QUESTION, ""),
        lambda a: a({"question": QUESTION, "context": ""}),
        lambda a: a({"question": None, "context": CONTEXT}),
        lambda a: a([PAIR, {"question": QUESTION, "context": ""}]),
        lambda a: a([PAIR, {"question": "", "context": CONTEXT}]),
        lambda a: a({"question": QUESTION}),
        lambda a: a([{"context": CONTEXT}]),
        lambda a: a(question={"This": "is odd"}, context=CONTEXT),
        lambda a: a(question=[QUESTION] * 2, context=[CONTEXT] * 3),
        lambda a: a(question=QUESTION, context=[CONTEXT] * 2),
        lambda a: a(None),
        lambda a: a(1),
        lambda a: a("Where?"),
        lambda a: a(),
        lambda a: a(Y=None),
        lambda a: a(CONTEXT, question=QUESTION),
        lambda a: a(PAIR, data=PAIR),
        lambda a: a(**PAIR, top_k=0),
        lambda a: a(**PAIR, top_k="3"),
        lambda a: a(**PAIR, max_answer_length=3),
        lambda a: a(**PAIR, doc_stride=2000),
    ],
)
def test_wrong_input_is_a_value_error_of_one_line(answerer, call):
    error = outcome(call, answerer)
    assert isinstance(error, ValueError) and isinstance(error, UserError)
    assert str(error) and "\n" not in str(error)


def test_empty_contexts_as_in_the_old_pipeline(answerer):
    """It refused an empty context, except of a generator or a torch dataset, and answered white space with ''."""
    with pytest.raises(ValueError, match="the context is empty"):
        answerer(question=[QUESTION, QUESTION], context=[CONTEXT, ""])
    empty = {"question": QUESTION, "context": ""}
    assert answerer(row for row in [empty]) == answerer(Examples(empty)) == [EMPTY]
    assert answerer(question=QUESTION, context=" \n") == EMPTY


def test_the_command_still_answers_an_empty_text(trained, capsys):
    run(ask, "--model_name_or_path", trained, "--question", QUESTION, "--context", "")
    assert "(none)" in capsys.readouterr().out


def load(trained: str, which: str):
    return {"model": AutoModelForQuestionAnswering, "tokenizer": AutoTokenizer}[which].from_pretrained(trained)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: ask.pipeline(model=m),
        lambda m: ask.pipeline(task=None, model=m),
        lambda m: ask.pipeline("question-answering", m, m),
        lambda m: ask.pipeline("question-answering", model=m, tokenizer=load(m, "tokenizer")),
        lambda m: ask.pipeline("question-answering", model=m, tokenizer=(m, {"use_fast": True})),
        lambda m: ask.pipeline("question-answering", model=m, tokenizer=m, config=m, framework="pt", use_fast=True),
        lambda m: ask.pipeline(model=m, device="cpu"),
        lambda m: ask.pipeline(model=m, device=-1),
        lambda m: ask.pipeline(model=m, device=torch.device("cpu")),
        lambda m: ask.pipeline(model=m, device_map="cpu"),
        lambda m: ask.pipeline(model=m, device_map={"": "cpu"}),
        lambda m: ask.pipeline(model=m, device_map="auto", device="cpu"),
        lambda m: ask.pipeline(model=m, torch_dtype="auto"),
        lambda m: ask.pipeline(model=m, dtype=torch.float32),
        lambda m: ask.pipeline(model=m, torch_dtype="torch.float32", batch_size=4, num_workers=2),
        lambda m: ask.pipeline(model=m, revision="main", token=None, trust_remote_code=False, feature_extractor=None),
        lambda m: ask.pipeline(model=m, model_kwargs={"attn_implementation": "eager", "low_cpu_mem_usage": True}),
        lambda m: ask.pipeline(model=m, model_kwargs={"dtype": torch.float32, "cache_dir": os.path.dirname(m)}),
    ],
)
def test_arguments_that_are_taken(trained, answer, make):
    found = outcome(lambda: make(trained)(**PAIR))
    assert found == answer | {"score": pytest.approx(answer["score"], abs=1e-5)}


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("value", ["bfloat16", torch.float16])
def test_other_precisions(trained, answer, name, value):
    answerer = ask.pipeline(model=trained, **{name: value})
    assert answerer.model.dtype == getattr(torch, str(value).removeprefix("torch."))
    assert answerer(**PAIR)["score"] == pytest.approx(answer["score"], abs=0.05)


def test_loaded_models(trained):
    model, tokenizer = load(trained, "model"), load(trained, "tokenizer")
    lengths = {"max_seq_length": 48, "doc_stride": 8}
    one = ask.pipeline("question-answering", model=model, tokenizer=tokenizer, config=model.config, **lengths)
    two = ask.pipeline(model=model, tokenizer=trained, **lengths)
    assert one(**PAIR) == two(**PAIR)
    assert (one.settings.max_seq_length, one.options.doc_stride) == (48, 8)


def test_lengths_of_a_model_without_saved_settings(trained, tmp_path):
    """As in the old pipeline, at most what the tokenizer allows, and half of it shared by windows."""
    model, tokenizer = load(trained, "model"), load(trained, "tokenizer")
    tokenizer.model_max_length = 40
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    for answerer in (ask.pipeline(model=tmp_path), ask.pipeline(model=model, tokenizer=tokenizer)):
        sizes = answerer.options.over(answerer.settings)
        assert (sizes.max_seq_length, sizes.doc_stride) == (40, 20)


REFUSED = [
    ({"model": None}, "no model given: pipeline('question-answering', model='my_qa_model')"),
    ({"task": "summarization"}, "task 'summarization' is not supported: only 'question-answering'"),
    ({"framework": "tf"}, "framework='tf' is not supported: models run in PyTorch; leave it out"),
    ({"use_fast": False}, "use_fast=False is not supported: only fast tokenizers"),
    ({"trust_remote_code": True}, "no code from a repository is ever run"),
    ({"token": "hf_secret"}, "token is not supported: log in once with `hf auth login`"),
    ({"feature_extractor": "m"}, "questions about text need none"),
    ({"pipeline_class": dict}, "there is one class, QuestionAnswerer"),
    ({"config": "other"}, "config is not supported: a model is loaded with its own; to use another, load the model"),
    ({"dtype": "int8"}, "dtype 'int8' is not one of float32, float16 and bfloat16"),
    ({"torch_dtype": torch.int8}, "is not one of float32, float16 and bfloat16"),
    ({"device_map": {"a": "cpu", "b": "disk"}}, "a model runs on one device; write device='cuda:0'"),
    ({"device_map": "balanced"}, "a model runs on one device; write device='cuda:0'"),
    ({"device": "cuda:99"}, "device cuda:99 cannot be used"),
    ({"device": torch.device("cuda:99")}, "device cuda:99 cannot be used"),
    ({"model_kwargs": {"load_in_8bit": True}}, "load_in_8bit is not supported: load the model yourself"),
    ({"model_kwargs": {"attn_implementation": "none_such"}}, "attn_implementation none_such: "),
    ({"max_len": 3}, "unknown option max_len: did you mean max_"),
    ({"tokenizer": object()}, "tokenizer is a object: only a fast tokenizer gives"),
    ({"tokenizer": "/nowhere"}, "/nowhere: no such folder"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=["-".join(options) for options, _ in REFUSED])
def test_arguments_that_are_answered(trained, options, message):
    error = outcome(lambda: ask.pipeline(**{"task": "question-answering", "model": trained} | options))
    assert isinstance(error, ValueError) and message in str(error) and "\n" not in str(error)
    assert "hf_secret" not in str(error)


def test_a_model_name_is_required():
    assert "it used to be 'distilbert/" in str(outcome(ask.pipeline, "question-answering"))


def test_every_old_argument_is_documented():
    page = (REPOSITORY / "docs/pipeline.md").read_text(encoding="utf-8")
    tables = page[page.index("## Arguments of the old pipeline") : page.index("## Compared with the old pipeline")]
    documented = {name for row in tables.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert set(OF_PIPELINE + OF_A_CALL) <= documented


def test_a_stream_takes_what_a_call_takes(answerer):
    pair = {"question": QUESTION, "context": CONTEXT}
    expected = answerer(**pair)
    assert list(answerer.stream([pair, tuple(pair.values())])) == [expected, expected]
    for wrong in (("Who?", None), ("Who?", float("nan")), "Who?", ("Who?", "a", "b")):
        assert isinstance(outcome(lambda wrong=wrong: list(answerer.stream([wrong]))), ValueError), wrong


def test_columns_of_tables_are_several_questions(answerer):
    rows = {"question": [QUESTION] * 2, "context": [CONTEXT] * 2}
    expected = answerer(**rows)
    table, frame = datasets.Dataset.from_dict(rows), pandas.DataFrame(rows)
    for question, context in ((table["question"], table["context"]), (frame["question"], frame["context"])):
        assert outcome(lambda one=question, other=context: answerer(question=one, context=other)) == expected
    answered = outcome(lambda: table.map(lambda row: answerer(row)))
    assert [row["answer"] for row in answered] == [each["answer"] for each in expected]

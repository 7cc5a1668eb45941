"""Models whose logits change with padding, models with demands on their batches, and tokenizers without CLS or padding.

All are tiny random checkpoints, used through the commands and ``QuestionAnswerer``.
"""

import functools
import json

import pytest
import torch
from helpers.architecture_runs import LENGTHS, NOTE
from helpers.architectures import build, make_config, make_tokenizer, write_data
from helpers.commands import read, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoTokenizer, PreTrainedModel

import ask
import evaluate_qa
import preprocess
import train
from qa.model.loss import masked_loss
from qa.model.padding import make_collator, probe_windows
from qa.model.tokenizer import load_tokenizer
from qa.options.arguments import ModelArguments
from qa.runtime.errors import UserError

QUESTIONS = [f"Who built the {thing}?" for thing in ("bridge", "tower", "mill", "gate", "old town hall")]
CONTEXT = "Ann Berg built the bridge in 1931, and her son built the tower. Nobody knows who built the gate. "
SMALL = {"max_seq_len": 96, "doc_stride": 24, "max_question_len": 24}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return a function that builds a checkpoint of an architecture once."""
    built = {}

    def checkpoint(kind: str):
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp(kind) / "model")
        return built[kind]

    return checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("questions"))


def load(folder):
    tokenizer = load_tokenizer(ModelArguments(str(folder)))
    return AutoModelForQuestionAnswering.from_pretrained(folder), tokenizer


def refusal(function, *args, **options) -> str | None:
    """Return the reason for which a call is refused."""
    try:
        function(*args, **options)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["fnet", "convbert", "funnel", "big_bird", "reformer", "yoso"])
def test_answers_do_not_depend_on_the_batch(kind, checkpoints, capsys):
    """Logits of these models change with padding: they have no mask, convolve, pool, or choose blocks by position."""
    answerer = ask.QuestionAnswerer.from_pretrained(str(checkpoints(kind)), "cpu", **SMALL)
    found = {size: answerer(question=QUESTIONS, context=CONTEXT * 2, top_k=3, batch_size=size) for size in (1, 3, 8)}
    scores = {size: [answer["score"] for answers in each for answer in answers] for size, each in found.items()}
    for size in (3, 8):
        assert scores[size] == pytest.approx(scores[1], rel=1e-5), f"batches of {size}"
    assert capsys.readouterr().err.count(NOTE) == 1


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "longformer", "led", "nystromformer", "xlnet", "mbart", "t5"])
def test_models_that_mask_padding_keep_it(kind, checkpoints, capsys):
    """Longformer and LED pad within, T5 and XLNet have relative positions, and XLNet's tokenizer pads on the left."""
    model, tokenizer = load(checkpoints(kind))
    collate = make_collator(model, tokenizer, 96)
    assert NOTE not in capsys.readouterr().err
    rows = probe_windows(tokenizer, 96)
    with torch.no_grad():
        together, alone = model.eval()(**collate(rows)).start_logits, model(**collate(rows[:1])).start_logits
    length = len(rows[0]["input_ids"])
    torch.testing.assert_close(together[0, :length], alone[0, :length], rtol=1e-4, atol=1e-6)


def test_fnet_is_trained_without_padding(checkpoints, tmp_path):
    """A batch has the loss and the gradient of its windows alone, and the checkpoint is the one it was."""
    (plain, tokenizer), (model, _) = load(checkpoints("fnet")), load(checkpoints("fnet"))
    collate, rows = make_collator(model, tokenizer, 96), probe_windows(tokenizer, 96)
    rows = [row | {"start_positions": 3, "end_positions": 5} for row in (*rows, *rows[:1])]

    def loss(model, rows) -> torch.Tensor:
        batch = collate(rows)
        start, end = batch.pop("start_positions"), batch.pop("end_positions")
        return masked_loss(model(**batch), batch["attention_mask"], start, end)

    batch_loss = loss(model.eval(), rows)
    alone = torch.stack([loss(plain.eval(), [row]) for row in rows]).mean()
    assert batch_loss.item() == pytest.approx(alone.item(), rel=1e-5)
    batch_loss.backward(), alone.backward()
    for (name, weight), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)
    for saved, folder in ((model, tmp_path / "model"), (plain, tmp_path / "plain")):
        saved.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["longformer", "funnel", "nystromformer", "gpt2", "llama", "t5", "bigbird_pegasus"])
def test_checkpoints_of_these_architectures_load_and_answer(kind, checkpoints):
    """Longformer demands three separators, Funnel a mask, and the others have no CLS or no padding token."""
    load_answerer = functools.partial(ask.QuestionAnswerer.from_pretrained, str(checkpoints(kind)), "cpu", **SMALL)
    assert refusal(load_answerer) is None
    answer = load_answerer()(question=QUESTIONS[0], context=CONTEXT)
    assert answer["answer"] and CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize("kind", ["deberta", "canine", "convbert", "lilt", "big_bird", "gpt2", "ibert"])
def test_loading_a_model_does_not_raise_its_alarms(kind, checkpoints, monkeypatch):
    """Models warn of ids that look padded if there is no mask."""
    unmasked = []
    monkeypatch.setattr(
        PreTrainedModel,
        "warn_if_padding_and_no_attention_mask",
        lambda model, ids, mask: unmasked.append(ids) if mask is None else None,
    )
    ask.QuestionAnswerer.from_pretrained(str(checkpoints(kind)), "cpu", **SMALL)
    assert unmasked == []


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_models_without_cls_or_padding_token_are_trained(kind, checkpoints, data, tmp_path, capsys):
    """The saved tokenizer pads with the end token, and is evaluated and asked without it being given again."""
    files = ("--train_file", data / "train.json", "--validation_file", data / "dev.json", "--cache_dir", data / "cache")
    model = ("--model_name_or_path", checkpoints(kind))
    more = (*files, *LENGTHS, "--max_steps", 2, "--report_to", "none", "--output_dir", tmp_path / "run")
    assert refusal(run, train, *model, *more) is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.pad_token_id is not None and tokenizer.cls_token_id is None
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(checkpoints(kind))), "no token is added"
    run(evaluate_qa, "--model_name_or_path", tmp_path / "run", "--output_dir", tmp_path / "again")
    assert read(tmp_path / "again" / "predictions.json") == read(tmp_path / "run" / "predictions.json")
    capsys.readouterr()
    run(ask, "--model_name_or_path", tmp_path / "run", "--question", QUESTIONS[0], "--context", CONTEXT)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_language_models_are_trained(kind, data, tmp_path):
    """Llama and Qwen are published as such: their weights have other names than in the class for questions."""
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(0)
    pretrained = AutoModelForCausalLM.from_config(make_config(kind, tokenizer))
    pretrained.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    files = ("--train_file", data / "train.json", "--validation_file", data / "dev.json", "--cache_dir", data / "cache")
    more = (*files, *LENGTHS, "--max_steps", 2, "--learning_rate", "1e-9", "--report_to", "none")
    command = ("--model_name_or_path", tmp_path / "model", *more, "--output_dir", tmp_path / "run")
    assert refusal(run, train, *command) is None
    saved = load_file(tmp_path / "run" / "model.safetensors")
    for name, weight in pretrained.model.state_dict().items():
        torch.testing.assert_close(saved[f"transformer.{name}"], weight, rtol=0, atol=1e-6, msg=name)
    run(evaluate_qa, "--model_name_or_path", tmp_path / "run", "--output_dir", tmp_path / "again")
    assert read(tmp_path / "again" / "predictions.json") == read(tmp_path / "run" / "predictions.json")


def test_null_answers_need_a_cls_token(checkpoints, data, tmp_path):
    """Whether asked for or found in the data; T5 has none."""
    questions = read(data / "train.json")
    questions["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    (tmp_path / "some.json").write_text(json.dumps(questions), encoding="utf-8")
    reason = "has no CLS token, where a model predicts that a question has no answer"
    model = ("--model_name_or_path", checkpoints("t5"))
    more = ("--validation_file", data / "dev.json", *LENGTHS, "--cache_dir", data / "cache", "--output_dir")
    for number, (command, *files) in enumerate(
        [
            (train, "--train_file", tmp_path / "some.json"),
            (train, "--train_file", data / "train.json", "--version_2_with_negative", "true"),
            (preprocess, "--train_file", tmp_path / "some.json"),
            (evaluate_qa, "--version_2_with_negative", "true"),
        ]
    ):
        found = refusal(run, command, *model, *files, *more, tmp_path / str(number))
        assert found and reason in found, (command.__name__, files)
    answerer = ask.QuestionAnswerer.from_pretrained(str(checkpoints("t5")), "cpu", **SMALL)
    assert answerer(question=QUESTIONS[0], context=CONTEXT)["answer"]
    found = refusal(answerer, question=QUESTIONS[0], context=CONTEXT, handle_impossible_answer=True)
    assert found and f"{reason}: give --handle_impossible_answer false" in found


def test_tokenizers_that_cannot_be_used_are_refused_with_the_reason(checkpoints, tmp_path):
    found = refusal(ask.QuestionAnswerer.from_pretrained, str(checkpoints("markuplm")))
    assert found and "(MarkupLMTokenizer) does not take a question and a text: its offsets are those of words" in found
    model, tokenizer = load(checkpoints("gpt2"))
    tokenizer.eos_token = tokenizer.pad_token = None
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    found = refusal(ask.QuestionAnswerer.from_pretrained, str(tmp_path))
    assert found and "has no padding token, and no end-of-text token to use instead" in found


def test_decoders_read_the_question_first(checkpoints):
    """Although Llama's tokenizer pads on the left, as XLNet's does, whose context comes first."""
    for kind, first in (("llama", "Who"), ("xlnet", "<unk>nn")):
        tokenizer = AutoTokenizer.from_pretrained(checkpoints(kind))
        assert tokenizer.padding_side == "left", kind
        ids = probe_windows(tokenizer, 96)[-1]["input_ids"]
        assert tokenizer.decode(ids).strip().startswith(first), kind


def test_token_types_of_decoders_are_not_looked_up_among_the_words(checkpoints):
    for kind, expected in (("gpt2", False), ("bert", True), ("xlnet", True)):
        assert make_collator(*load(checkpoints(kind)), 96).token_types is expected, kind

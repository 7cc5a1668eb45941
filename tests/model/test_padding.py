"""Models whose logits change with padding, models with demands on their batches, and tokenizers without CLS or padding.

All are tiny random checkpoints, used through the commands and ``QuestionAnswerer``.
"""

import json
import logging

import ask
import evaluate_qa
import numpy as np
import preprocess
import pytest
import torch
import train
from helpers.architecture_runs import LENGTHS, NOTE
from helpers.architectures import build, write_data
from helpers.commands import read, run
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, PreTrainedModel

from qa.model.loss import masked_loss
from qa.model.padding import make_collator, probe_windows
from qa.runtime.errors import UserError

QUESTIONS = [f"Who built the {thing}?" for thing in ("bridge", "tower", "mill", "gate", "old town hall")]
CONTEXT = "Ann Berg built the bridge in 1931, and her son built the tower. Nobody knows who built the gate or the mill. "
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


def load(folder):
    return AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["fnet", "convbert", "funnel", "big_bird", "reformer", "yoso"])
def test_answers_do_not_depend_on_the_batch(kind, checkpoints, capsys):
    """Logits of these models change with padding: they have no mask, convolve, pool, or choose blocks by position."""
    answerer = ask.QuestionAnswerer.from_pretrained(str(checkpoints(kind)), "cpu", **SMALL)
    found = {
        size: answerer(question=QUESTIONS, context=CONTEXT * 2, top_k=3, batch_size=size) for size in (1, 3, 8)
    }
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
    answerer = ask.QuestionAnswerer.from_pretrained(str(checkpoints(kind)), "cpu", **SMALL)
    answer = answerer(question=QUESTIONS[0], context=CONTEXT)
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

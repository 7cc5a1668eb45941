"""Publishing: refused before training, complete after it, and nothing sent that was not chosen."""

from fnmatch import fnmatch

import pytest
from huggingface_hub import HfApi
from transformers import TrainingArguments

from qa import hub
from qa.errors import UserError


def test_a_push_that_would_fail_is_refused_before_training(monkeypatch):
    def refuse(self):
        raise OSError("Token is required\nbut no token found.")

    monkeypatch.setattr(HfApi, "whoami", refuse)
    with pytest.raises(UserError, match=r"cannot push .* Token is required; log in with `hf auth login`"):
        hub.check_before(TrainingArguments("out", hub_model_id="me/model"))


def test_a_push_that_fails_leaves_the_model_and_the_command_to_repeat_it(monkeypatch, tmp_path):
    monkeypatch.setattr(HfApi, "create_repo", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("503")))
    with pytest.raises(UserError, match=r"the model is complete in .*503.*`hf upload me/model"):
        hub.push(tmp_path, TrainingArguments(str(tmp_path), hub_model_id="me/model"))


def test_what_is_sent():
    sent = ["model.safetensors", "config.json", "tokenizer.json", "eval_results.json"]
    kept = [
        "settings.yaml",
        "optimizer.pt",
        "training_args.bin",
        "trainer_state.json",
        "predictions.json",
        "events.out.tfevents.1",
    ]
    assert all(any(fnmatch(name, pattern) for pattern in hub.SENT) for name in sent)
    assert not any(fnmatch(name, pattern) for pattern in hub.SENT for name in kept)

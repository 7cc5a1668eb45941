"""``UserError`` is a ``ValueError`` for callers from Python, and passes through handlers of other ``ValueError``s."""

from types import SimpleNamespace

import pytest

from qa.options.arguments import DataArguments
from qa.options.parser import parse_arguments
from qa.runtime.errors import UserError
from qa.training import run


def fail(message: str):
    raise UserError(message)


def stub_trainer(train):
    handler = SimpleNamespace(callbacks=[])
    return SimpleNamespace(train=train, callback_handler=handler, is_fsdp_enabled=False, is_deepspeed_enabled=False)


@pytest.mark.parametrize(
    "call",
    [
        lambda message: run.train(stub_trainer(lambda **_: fail(message)), None),
        lambda message: run.make_trainer(message=message),
    ],
)
def test_errors_during_training_keep_their_message(call, monkeypatch):
    monkeypatch.setattr(run, "QATrainer", lambda message: fail(message))
    with pytest.raises(ValueError, match=r"^the disk is full$"):
        call("the disk is full")


def test_errors_of_options_keep_their_message():
    with pytest.raises(UserError) as error:
        parse_arguments((DataArguments,), ["--columns", "q" * 400])
    assert "q" * 400 in str(error.value) and str(error.value).endswith("then the name in the data")

"""Fixtures shared by all tests."""

import atexit
import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for such small models a second thread is slower
os.environ["HF_HUB_DISABLE_XET"] = "1"  # read on import of huggingface_hub; the tests' Hub knows LFS only
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="qa-assets-")

import pytest
from helpers.builders import FAMILIES, SHARED, bert, squad
from helpers.processors import keep_speed
from hypothesis import settings
from transformers import AlbertConfig, PreTrainedTokenizerFast, set_seed

atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)
keep_speed(1.0)  # so that every processor computes in fp32, in this process and in those that tests start
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random weights and numbers do not depend on the tests that ran before."""
    set_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("the SQuAD data beside the repository (../shared) are not here")
    return SHARED


@pytest.fixture(scope="session", params=FAMILIES)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return FAMILIES[request.param]()


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return bert()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, bert_tokenizer) -> Path:
    """A folder with a small tokenizer and ALBERT configuration, no weights."""
    folder = tmp_path_factory.mktemp("tiny")
    bert_tokenizer.save_pretrained(folder)
    AlbertConfig(
        vocab_size=len(bert_tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        hidden_act="gelu_new",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder with train.json and dev.json.gz: questions about birthplaces, with contexts of one sentence."""
    names = ["Mira", "Talven", "Zoë", "Vindel", "Sollen", "Ørby", "Tomé", "Arna"]
    rows = [
        (f"{name} was born in {place} in 19{i}{j}.", f"Where was {name} born?", place)
        for i, name in enumerate(names)
        for j, place in enumerate(names)
        if i != j
    ]
    folder = tmp_path_factory.mktemp("data")
    (folder / "train.json").write_text(json.dumps(squad(rows[:40])), encoding="utf-8")
    with gzip.open(folder / "dev.json.gz", "wt", encoding="utf-8") as file:
        json.dump(squad(rows[40:]), file)
    return folder

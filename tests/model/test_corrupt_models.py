"""Corrupt model folders either load with the weights that were saved, or are rejected in one line.

Never another exception, a hang, other weights, or running code of the folder. All variants are generated from fixed
seeds; the message of a failing one contains its number.
"""

import json
import pickle
import random
import shutil

import pytest
import torch
from helpers.builders import FAMILIES
from helpers.mutations import MUTATIONS, mutate_tree, time_limit
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa.data.windows import WindowSettings, check_lengths
from qa.model.loading import load_config, position_limit
from qa.model.padding import make_collator
from qa.model.tokenizer import check_fit, load_tokenizer
from qa.model.weights import load_model
from qa.options.arguments import ModelArguments
from qa.runtime.errors import UserError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_model):
    """Return the folder of a tiny ALBERT with its tokenizer, as train.py saves one."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(1)
    AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(model_folder):
    return load_file(model_folder / "model.safetensors")


def load_and_run(folder, variant: str, changed: bool) -> dict | None:
    """Return the weights of a model that loads and runs; None if it was rejected in one line. Anything else fails.

    If weights were ``changed``, logits may be NaN for some texts, which evaluation reports as divergence.
    """
    args = ModelArguments(model_name_or_path=str(folder))
    try:
        with time_limit():
            tokenizer, config = load_tokenizer(args), load_config(args)
            check_fit(tokenizer, config)
            check_lengths(WindowSettings(32, 4, 8), tokenizer, position_limit(config))
            model = load_model(args, config, training=False)
            make_collator(model, tokenizer, 32)  # tries the model
            batch = tokenizer(["Where?", "Who?"], ["Mira was born in Sollen."] * 2, padding=True, return_tensors="pt")
            with torch.no_grad():
                output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    except UserError as error:
        message = str(error)
        assert str(folder) in message or message.startswith("max_seq_length 32 is longer than the model"), variant
        assert message.isprintable() and len(message) < 1500, variant
        return None
    except BaseException as error:  # a panic in native code is not an Exception
        raise AssertionError(f"{variant}: {error!r}") from error
    assert changed or (output.start_logits.isfinite() & output.end_logits.isfinite()).all(), variant
    return model.state_dict()


def loads(folder, variant: str, weights: dict, changed: bool = False) -> bool:
    """Return whether a folder can be used; if so, check that all weights are those that were saved."""
    loaded = load_and_run(folder, variant, changed)
    if loaded is None:
        return False
    assert loaded.keys() >= weights.keys(), variant
    if not changed:
        assert all(torch.equal(loaded[key], value) for key, value in weights.items()), variant
    return True


def test_corrupt_weights(tmp_path, model_folder, weights):
    """120 variants of the file; only changes to the numbers themselves can go unnoticed."""
    folder, rng = tmp_path / "m", random.Random("weights")
    shutil.copytree(model_folder, folder)
    whole, path = (model_folder / "model.safetensors").read_bytes(), folder / "model.safetensors"
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert loads(folder, "whole", weights)
    for number in range(120):
        how = rng.choice(("header", "header", "header", "length", "numbers", *MUTATIONS))
        data, at = bytearray(whole), None
        if callable(how):
            data = how(whole, rng)
            at = begin if data[:begin] == whole[:begin] and len(data) == len(whole) else None
        else:
            low, high = {"header": (8, begin), "length": (0, 8), "numbers": (begin, len(whole))}[how]
            at = rng.randrange(low, high)
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        loads(folder, f"{number} {how} {at}", weights, changed=at is not None and at >= begin)


def test_incomplete_and_replaced_weights(tmp_path, model_folder, weights):
    whole, path = (model_folder / "model.safetensors").read_bytes(), tmp_path / "m/model.safetensors"
    shutil.copytree(model_folder, tmp_path / "m")
    for name, data in (
        ("empty", b""),
        ("half", whole[: len(whole) // 2]),
        ("zeros", bytes(len(whole))),
        ("one byte less", whole[:-1]),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("huge header", (1 << 62).to_bytes(8, "little") + whole[8:]),
    ):
        path.write_bytes(data)
        assert not loads(tmp_path / "m", name, weights), name
    for key, value in weights.items():
        for name, changed in (
            ("missing", {other: kept for other, kept in weights.items() if other != key}),
            ("NaN", weights | {key: torch.full_like(value, float("nan"))}),
            ("other shape", weights | {key: torch.zeros(*value.shape, 2)}),
        ):
            save_file(changed, path, {"format": "pt"})
            assert not loads(tmp_path / "m", f"{key} {name}", weights), f"{key} {name}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_corrupt_json_files_of_a_model(tmp_path, model_folder, weights, name):
    """60 variants of each file: other values and types, missing keys, corrupt bytes."""
    folder, rng = tmp_path / "m", random.Random(name)
    shutil.copytree(model_folder, folder)
    whole = (model_folder / name).read_bytes()
    for number in range(60):
        if rng.random() < 0.7:
            tree = json.loads(whole)
            variant = f"{name} {number} " + ", ".join(mutate_tree(tree, rng) for _ in range(rng.choice((1, 1, 2))))
            data = json.dumps(tree).encode()
        else:
            mutate = rng.choice(MUTATIONS)
            variant, data = f"{name} {number} {mutate.__name__}", mutate(whole, rng)
        (folder / name).write_bytes(data)
        loads(folder, variant, weights)


CONFIG_VALUES = {
    "num_hidden_layers": (0, -1, 10**9, "2", None),
    "num_hidden_groups": (0, 2, 10**9),
    "inner_group_num": (0, 2, 10**9),
    "hidden_size": (0, 33, 10**9),
    "embedding_size": (8, 10**9),
    "num_attention_heads": (0, 3, 64, -2),
    "vocab_size": (0, 3, 10**12, None),
    "max_position_embeddings": (0, 8, 10**9),
    "type_vocab_size": (0, 1),
    "hidden_act": ("no such", 3),
    "layer_norm_eps": (float("nan"), "x"),
    "hidden_dropout_prob": (7, "x"),
    "pad_token_id": (10**6, -(10**6)),
    "chunk_size_feed_forward": (3,),
    "return_dict": (False,),
    "output_hidden_states": (True,),
    "id2label": ({"0": "a", "1": "b", "2": "c"}, {}, "x"),
    "model_type": ("bert", "gpt2", "t5", "vit", "no such", None, 3),
    "dtype": ("float16", "no such", 3),
    "quantization_config": ({"quant_method": "bitsandbytes"}, {"quant_method": "no such"}, "x"),
    "auto_map": ({"AutoConfig": "planted.Config", "AutoModelForQuestionAnswering": "planted.Model"},),
}


@pytest.mark.parametrize("name", CONFIG_VALUES)
def test_invalid_values_in_a_configuration(tmp_path, model_folder, weights, name):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    for value in CONFIG_VALUES[name]:
        config = json.loads((model_folder / "config.json").read_text()) | {name: value}
        (folder / "config.json").write_text(json.dumps(config))
        loads(folder, f"{name} {value}", weights)
    assert not (tmp_path / "ran").exists()


class FileWriter:
    """Write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_never_loaded(tmp_path, model_folder, weights, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    folder, ran = tmp_path / "m", tmp_path / "ran"
    pickled = pickle.dumps({"albert.embeddings.word_embeddings.weight": FileWriter(ran)})
    index = {"metadata": {}, "weight_map": {key: "pytorch_model.bin" for key in weights}}
    for names, safe in (
        (("pytorch_model.bin",), False),
        (("pytorch_model.bin",), True),
        (("model.safetensors",), False),
        (("pytorch_model.bin", "pytorch_model.bin.index.json"), False),
        (("pytorch_model.bin", "model.safetensors.index.json"), False),
        (("tokenizer.pkl", "vocab.pkl", "training_args.bin", "optimizer.pt"), True),
    ):
        shutil.copytree(model_folder, folder)
        if not safe:
            (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(json.dumps(index).encode() if name.endswith(".json") else pickled)
        assert loads(folder, str(names), weights) == safe
        if not safe:
            with pytest.raises(UserError) as error:
                load_model(ModelArguments(str(folder)), load_config(ModelArguments(str(folder))), training=True)
            assert "torch.load was called" not in str(error.value), names
        assert not ran.exists(), names
        shutil.rmtree(folder)
    pickle.loads(pickled)["albert.embeddings.word_embeddings.weight"].close()
    assert ran.exists(), "unpickling it would have written the file"


def test_missing_files_and_mismatched_tokenizers(tmp_path, model_folder, weights):
    folder = tmp_path / "m"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copytree(model_folder, folder)
        (folder / name).unlink()
        assert not loads(folder, f"no {name}", weights)
        (folder / name).mkdir()
        assert not loads(folder, f"{name} is a folder", weights)
        (folder / name).rmdir()
        (folder / name).write_bytes(b"")
        assert not loads(folder, f"{name} is empty", weights)
        shutil.rmtree(folder)
    for family in ("roberta", "xlnet"):
        shutil.copytree(model_folder, folder)
        FAMILIES[family]().save_pretrained(folder)
        assert not loads(folder, family, weights), "a vocabulary of 400 for a model of 200, and one of 90"
        shutil.rmtree(folder)

"""Tokenizers and models, from the Hub or a folder, and what does not fit."""

import contextlib
import functools
import inspect
import json
import re
from pathlib import Path

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME
from transformers.utils import logging as transformers_logging

from qa.io.run_folder import CONFIG
from qa.options.arguments import ModelArguments
from qa.options.saved import find_file
from qa.runtime.errors import UserError, one_line

SIZES = (  # of a configuration, and the most that can be meant
    (("num_hidden_layers", "num_hidden_groups", "inner_group_num", "n_layer", "n_layers"), 1_000),
    (("num_attention_heads", "hidden_size", "embedding_size", "intermediate_size"), 1_000_000),
    (("vocab_size",), 100_000_000),
)
FEWEST = 0.75  # pieces of a tokenizer for one of the model's; some models round their number up
LAYER = re.compile(r"\.\d+\.")  # in the name of a layer's weight
transformers_logging.disable_progress_bar()  # of reading and writing weights; training keeps its own
hub_logging.set_verbosity_error()  # its retries; what cannot be had is said in one line


def cannot_load(what: str, name: str, error: Exception) -> UserError:
    if Path(name).expanduser().is_dir():
        if not (Path(name) / CONFIG).is_file():
            return UserError(f"{what} {name} cannot be loaded: the folder has no config.json, so it is not a model's")
        reason = one_line(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights are cut off or damaged ({reason}): copy or download them again"
        return UserError(f"{what} {name} cannot be loaded: {reason}")
    return UserError(
        f"{what} {name} cannot be had: {one_line(error)} Check the name (no such folder here) and the network,"
        " log in with `hf auth login`, give a local folder, or try --config configs/demo.yaml"
    )


@contextlib.contextmanager
def loading(what: str, name: str):
    """Whatever goes wrong inside is said in one line: the Hub's client, a dozen parsers, panics of native code."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of the tokenizers is no Exception
        raise cannot_load(what, name, error) from None


@functools.cache
def announce(name: str) -> None:
    """Said before a look-up that can take a minute when there is no network."""
    if not Path(name).expanduser().exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f"{name}: no such folder")
        print(f"looking for {name} on the Hub")


def hub_options(args: ModelArguments) -> dict:
    return {"revision": args.model_revision, "cache_dir": args.cache_dir, "trust_remote_code": False}


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerBase:
    """The fast tokenizer of ``tokenizer_name``, or the one beside the model."""
    name = args.tokenizer_name or args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **hub_options(args))
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 10:
        raise UserError(f"tokenizer {name} has no vocabulary: its files are missing; give --tokenizer_name")
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name} has no fast version, which gives the offsets that answers need")
    if tokenizer.pad_token_id is None:
        raise UserError(f"tokenizer {name} has no padding token: not that of a question-answering encoder")
    if not isinstance(tokenizer.model_max_length, (int, float)) or not tokenizer.model_max_length >= 1:
        raise UserError(
            f"tokenizer {name} has a model_max_length of {tokenizer.model_max_length!r:.40}: mend its files"
        )
    if not tokenizer.padding_side == "left" and tokenizer.cls_token_id is None:
        raise UserError(f"tokenizer {name} has no CLS token: not that of a question-answering encoder")
    return tokenizer


def load_config(args: ModelArguments) -> PretrainedConfig:
    name = args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    with loading("model", name):
        config = AutoConfig.from_pretrained(name, **hub_options(args))
        check_sizes(config)
    config.num_labels = 2  # start and end; a checkpoint of another task may say otherwise
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    return config


def check_sizes(config: PretrainedConfig) -> None:
    """Raises ValueError for numbers that would fill the memory or never end; a damaged file may hold any."""
    for names, most in SIZES:
        for name in names:
            value = getattr(config, name, None)
            if isinstance(value, int) and not 1 <= value <= most:
                raise ValueError(f"its {name} is {value!r:.40}; expected a whole number from 1 to {most:,}")


def load_model(args: ModelArguments, config: PretrainedConfig, training: bool) -> PreTrainedModel:
    """Pretrained weights in fp32, or random ones where ``config_name`` asks for them. Never a pickle.

    Raises:
        UserError: encoder weights that the checkpoint lacks (they would be random) or the configuration has no
            place for, weights that are not numbers, a model that cannot be run, or, outside training, one
            without a question-answering head.
    """
    name = args.config_name or args.model_name_or_path
    with loading("model", name):
        if args.config_name:
            return AutoModelForQuestionAnswering.from_config(config)
        refuse_pickles(args)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # what is missing is judged here
        try:
            model, found = AutoModelForQuestionAnswering.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=True,
                **hub_options(args),
            )
        finally:
            transformers_logging.set_verbosity(verbosity)
        check_weights(name, model, sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), training)
        check_forward(name, model)
    return model


def check_weights(name: str, model: PreTrainedModel, missing: list[str], unexpected: list[str], training: bool) -> None:
    prefix = model.base_model_prefix + "."
    if encoder := [key for key in missing if key.startswith(prefix)]:
        raise UserError(
            f"model {name} lacks {len(encoder)} encoder weights, {encoder[0]} first:"
            " they would start random; give a complete checkpoint, or --config_name for a random start"
        )
    if missing and not training:
        raise UserError(
            f"model {name} has no question-answering head ({missing[0]} is missing): fine-tune it with train.py first"
        )
    if unused := [key for key in unexpected if key.startswith((prefix, "encoder.")) and LAYER.search(key)]:
        raise UserError(
            f"model {name} has {len(unused)} encoder weights that its config.json has no place for,"
            f" {unused[0]!r:.80} first: the two do not belong together"
        )
    for key, weight in model.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise UserError(
                f"model {name}: the model has diverged, or its file is damaged: {key} holds NaN or infinity; take an"
                " earlier checkpoint, or train again with a lower learning_rate"
            )


def check_forward(name: str, model: PreTrainedModel) -> None:
    """Runs a few tokens through the model: a configuration that cannot work shows here."""
    with torch.no_grad():
        output = model(input_ids=torch.arange(4)[None] % model.config.vocab_size)
    if not (torch.isfinite(output.start_logits).all() and torch.isfinite(output.end_logits).all()):
        raise UserError(f"model {name}: its logits are not finite numbers: config.json and weights do not fit")


def check_fit(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Raises UserError for a tokenizer that gives ids the model does not have, or knows too few of them."""
    name = tokenizer.name_or_path or "given"
    if not getattr(config, "vocab_size", None):
        raise UserError(
            f"a {config.model_type} model does not read text: give an encoder such as albert/albert-base-v2"
        )
    with loading("tokenizer", name):
        known = max(tokenizer.get_vocab().values(), default=0)
        pair = max(tokenizer("Who wrote it?", "Ann \U0010fffd 1931.")["input_ids"])  # its special tokens among them
    if max(known, pair) >= config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has {max(known, pair) + 1} pieces and the model knows {config.vocab_size}: they do"
            " not fit together; give the model's own tokenizer"
        )
    if known + 1 < FEWEST * config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has only {known + 1} pieces of the {config.vocab_size} that the model knows: it is"
            " not the model's own"
        )


def position_limit(config: PretrainedConfig) -> int | None:
    """Longest input in tokens, None where the architecture has no limit (RoBERTa keeps two positions back)."""
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0 or config.model_type in ("xlnet", "deberta", "deberta-v2"):
        return None
    reserved = config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text")
    return limit - 2 if reserved else limit


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether the model tells question from context by token types; some tokenizers of transformers 5 omit them."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 2) >= 2


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Saves it as it was loaded, without the truncation that the last call left in it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def refuse_pickles(args: ModelArguments) -> None:
    """Raises UserError for weights that are a pickle, or whose list names one: reading one can run its code."""
    name, advice = args.model_name_or_path, "which could run code here; take a model with safetensors weights"
    if index := find_file(args, SAFE_WEIGHTS_INDEX_NAME):
        for shard in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values():
            if not str(shard).endswith(".safetensors"):
                raise UserError(f"model {name}: {shard!r:.80} is a pickle, {advice}")
    elif not find_file(args, SAFE_WEIGHTS_NAME) and find_file(args, WEIGHTS_NAME):
        raise UserError(f"model {name} only has weights as a pickle ({WEIGHTS_NAME}), {advice}")

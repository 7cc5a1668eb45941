"""Load tokenizers and models from the Hub or a folder, and reject incompatible or corrupt ones."""

import contextlib
import functools
import inspect
import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME
from transformers.utils import logging as transformers_logging

from qa.io.run_folder import CONFIG
from qa.options.arguments import ModelArguments
from qa.options.saved import find_file
from qa.runtime.errors import UserError, one_line

SIZE_LIMITS = (  # fields of a configuration, and their largest plausible value
    (("num_hidden_layers", "num_hidden_groups", "inner_group_num", "n_layer", "n_layers"), 1_000),
    (("num_attention_heads", "hidden_size", "embedding_size", "intermediate_size"), 1_000_000),
    (("vocab_size",), 100_000_000),
)
MIN_VOCABULARY_SHARE = 0.75  # of the model's vocabulary that its tokenizer has; some models pad theirs
LAYER = re.compile(r"\.\d+\.")  # in the name of a weight of a layer


def loading_error(what: str, name: str, error: BaseException) -> UserError:
    """Return the error to report when the tokenizer or model ``name`` could not be loaded."""
    if Path(name).expanduser().is_dir():
        if not (Path(name) / CONFIG).is_file():
            return UserError(
                f"{what} {name} cannot be loaded: the folder has no config.json, so it is not a model folder"
            )
        reason = one_line(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights are incomplete or corrupt ({reason}): copy or download them again"
        return UserError(f"{what} {name} cannot be loaded: {reason}")
    return UserError(
        f"{what} {name} could not be loaded: {one_line(error)} Check the name (there is no such folder) and the"
        " network, log in with `hf auth login`, give a local folder, or try --config configs/demo.yaml"
    )


@contextlib.contextmanager
def loading(what: str, name: str):
    """Report any exception in the block in one line; the Hub's client, parsers and native code raise many types."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in the tokenizers library is not an Exception
        raise loading_error(what, name, error) from None


@functools.cache
def announce(name: str) -> None:
    """Print that a model is looked up on the Hub, which can take a minute without a network.

    Raises:
        UserError: the name is a path, but there is no such folder.
    """
    if not Path(name).expanduser().exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f"{name}: no such folder")
        print(f"looking for {name} on the Hub")


def hub_options(args: ModelArguments) -> dict:
    """Return the arguments of ``from_pretrained`` that follow from the options."""
    return {"revision": args.model_revision, "cache_dir": args.cache_dir, "trust_remote_code": False}


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of ``tokenizer_name``, or else that of the model.

    Raises:
        UserError: it cannot be loaded, or lacks what question answering needs.
    """
    name = args.tokenizer_name or args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **hub_options(args))
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 10:
        raise UserError(f"tokenizer {name} has no vocabulary: its files are missing; give --tokenizer_name")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"tokenizer {name} has no fast version, which is needed for offsets")
    if tokenizer.pad_token_id is None:
        raise UserError(f"tokenizer {name} has no padding token, which a question-answering encoder needs")
    if not isinstance(tokenizer.model_max_length, (int, float)) or not tokenizer.model_max_length >= 1:
        raise UserError(f"tokenizer {name} has a model_max_length of {tokenizer.model_max_length!r:.40}: fix its files")
    if tokenizer.padding_side != "left" and tokenizer.cls_token_id is None:
        raise UserError(f"tokenizer {name} has no CLS token, which a question-answering encoder needs")
    return tokenizer


def load_config(args: ModelArguments) -> PretrainedConfig:
    """Load the configuration of ``config_name``, or else that of the model.

    Raises:
        UserError: it cannot be loaded, or holds implausible sizes.
    """
    name = args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    with loading("model", name):
        config = AutoConfig.from_pretrained(name, **hub_options(args))
        check_sizes(config)
    config.num_labels = 2  # start and end; a checkpoint for another task may have another number
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    return config


def check_sizes(config: PretrainedConfig) -> None:
    """Check for sizes that would exhaust memory, as a corrupt file may hold.

    Raises:
        ValueError: a size is out of range.
    """
    for names, most in SIZE_LIMITS:
        for name in names:
            value = getattr(config, name, None)
            if isinstance(value, int) and not 1 <= value <= most:
                raise ValueError(f"its {name} is {value!r:.40}; expected a whole number from 1 to {most:,}")


def load_model(args: ModelArguments, config: PretrainedConfig, training: bool) -> PreTrainedModel:
    """Load pretrained weights in fp32, never from a pickle; random weights if ``config_name`` is set.

    Raises:
        UserError: the checkpoint lacks encoder weights, which would be random, or has some that the configuration does
            not use; weights are not finite; the model cannot run; or, unless ``training``, it has no
            question-answering head.
    """
    name = args.config_name or args.model_name_or_path or ""
    with loading("model", name):
        if args.config_name:
            return AutoModelForQuestionAnswering.from_config(config)
        reject_pickles(args)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # missing weights are reported below
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
    """Check the loaded weights; ``missing`` and ``unexpected`` are the keys that ``from_pretrained`` reports.

    Raises:
        UserError: as ``load_model``.
    """
    prefix = model.base_model_prefix + "."
    if encoder := [key for key in missing if key.startswith(prefix)]:
        raise UserError(
            f"model {name} lacks {len(encoder)} encoder weights, such as {encoder[0]}:"
            " they would be random; give a complete checkpoint, or --config_name to train from random weights"
        )
    if missing and not training:
        raise UserError(
            f"model {name} has no question-answering head ({missing[0]} is missing): fine-tune it with train.py first"
        )
    if unused := [key for key in unexpected if key.startswith((prefix, "encoder.")) and LAYER.search(key)]:
        raise UserError(
            f"model {name} has {len(unused)} encoder weights that its config.json does not use,"
            f" such as {unused[0]!r:.80}: config.json and weights do not match"
        )
    for key, weight in model.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise UserError(
                f"model {name}: the model has diverged, or its file is corrupt: {key} has NaN or infinite values; use"
                " an earlier checkpoint, or train again with a lower learning_rate"
            )


def check_forward(name: str, model: PreTrainedModel) -> None:
    """Run a few tokens through the model, so that a configuration that does not work fails here.

    Raises:
        UserError: the logits are not finite.
    """
    with torch.no_grad():
        output = model(input_ids=torch.arange(4)[None] % model.config.vocab_size)
    if not (torch.isfinite(output.start_logits).all() and torch.isfinite(output.end_logits).all()):
        raise UserError(f"model {name}: its logits are not finite: config.json and weights do not match")


def check_fit(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Check that a tokenizer and a model belong together.

    Raises:
        UserError: the model has no vocabulary, or the tokenizer has ids that the model lacks, or far fewer than it.
    """
    name = tokenizer.name_or_path or "given"
    if not getattr(config, "vocab_size", None):
        raise UserError(
            f"a {config.model_type} model does not take text: give an encoder such as albert/albert-base-v2"
        )
    with loading("tokenizer", name):
        known = max(tokenizer.get_vocab().values(), default=0)
        pair = max(tokenizer("Who wrote it?", "Ann \U0010fffd 1931.")["input_ids"])  # including special tokens
    if max(known, pair) >= config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has {max(known, pair) + 1} tokens and the model {config.vocab_size}: they do not"
            " match; give the model's own tokenizer"
        )
    if known + 1 < MIN_VOCABULARY_SHARE * config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has only {known + 1} of the model's {config.vocab_size} tokens: they do not match;"
            " give the model's own tokenizer"
        )


def position_limit(config: PretrainedConfig) -> int | None:
    """Return the longest input in tokens; None if the architecture has no limit. RoBERTa reserves two positions."""
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0 or config.model_type in ("xlnet", "deberta", "deberta-v2"):
        return None
    reserved = config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text")
    return limit - 2 if reserved else limit


def takes_token_types(model: PreTrainedModel) -> bool:
    """Return whether the model uses token types to tell question from context; some tokenizers do not return them."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 2) >= 2


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Save a tokenizer without the truncation and padding that its last call left in it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def reject_pickles(args: ModelArguments) -> None:
    """Check that the weights are not pickled: reading a pickle can run code.

    Raises:
        UserError: there are only pickled weights, or the index of the shards lists some.
    """
    name, advice = args.model_name_or_path, "which could run code here; use a model with safetensors weights"
    if index := find_file(args, SAFE_WEIGHTS_INDEX_NAME):
        for shard in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values():
            if not str(shard).endswith(".safetensors"):
                raise UserError(f"model {name}: {shard!r:.80} is a pickle, {advice}")
    elif not find_file(args, SAFE_WEIGHTS_NAME) and find_file(args, WEIGHTS_NAME):
        raise UserError(f"model {name} has only pickled weights ({WEIGHTS_NAME}), {advice}")

"""Tokenizers and models, from the Hub or a folder, and the settings saved beside them."""

import inspect
from pathlib import Path

import torch
import yaml
from huggingface_hub.utils import logging as hub_logging
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from qa.arguments import ModelArguments
from qa.checkpoints import find_checkpoints
from qa.errors import UserError, one_line

SETTINGS = "settings.yaml"
transformers_logging.disable_progress_bar()  # of reading and writing weights; training keeps its own
hub_logging.set_verbosity_error()  # its retries; what cannot be had is said in one line


def cannot_load(what: str, name: str, error: Exception) -> UserError:
    if Path(name).expanduser().is_dir():
        if not (Path(name) / "config.json").is_file():
            return UserError(f"{what} {name} cannot be loaded: the folder has no config.json, so it is not a model's")
        return UserError(f"{what} {name} cannot be loaded: {one_line(error)}")
    return UserError(
        f"{what} {name} cannot be had: {one_line(error)} Check the name (no such folder here) and the network,"
        " log in with `hf auth login`, give a local folder, or try --config configs/demo.yaml"
    )


def announce(name: str) -> None:
    """Said before a look-up that can take a minute when there is no network."""
    if not Path(name).expanduser().exists():
        print(f"looking for {name} on the Hub")


def hub_options(args: ModelArguments) -> dict:
    return {"revision": args.model_revision, "cache_dir": args.cache_dir, "trust_remote_code": False}


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerBase:
    """The fast tokenizer of ``tokenizer_name``, or the one beside the model."""
    name = args.tokenizer_name or args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **hub_options(args))
    except Exception as error:  # the Hub's client, the parsers of a dozen formats
        raise cannot_load("tokenizer", name, error) from None
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 10:
        raise UserError(f"tokenizer {name} has no vocabulary: its files are missing; give --tokenizer_name")
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name} has no fast version, which gives the offsets that answers need")
    if tokenizer.pad_token_id is None:
        raise UserError(f"tokenizer {name} has no padding token: not that of a question-answering encoder")
    if not tokenizer.padding_side == "left" and tokenizer.cls_token_id is None:
        raise UserError(f"tokenizer {name} has no CLS token: not that of a question-answering encoder")
    return tokenizer


def load_config(args: ModelArguments) -> PretrainedConfig:
    name = args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    try:
        config = AutoConfig.from_pretrained(name, **hub_options(args))
    except Exception as error:
        raise cannot_load("model", name, error) from None
    config.num_labels = 2  # start and end; a checkpoint of another task may say otherwise
    return config


def load_model(args: ModelArguments, config: PretrainedConfig, training: bool) -> PreTrainedModel:
    """Pretrained weights in fp32, or random ones where ``config_name`` asks for them.

    Raises:
        UserError: encoder weights that the checkpoint lacks (they would be random), or, outside training,
            a checkpoint without a question-answering head.
    """
    try:
        if args.config_name:
            return AutoModelForQuestionAnswering.from_config(config)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # what is missing is judged here
        try:
            model, loading = AutoModelForQuestionAnswering.from_pretrained(
                args.model_name_or_path,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                **hub_options(args),
            )
        finally:
            transformers_logging.set_verbosity(verbosity)
    except Exception as error:
        raise cannot_load("model", args.config_name or args.model_name_or_path, error) from None
    prefix = model.base_model_prefix + "."
    missing = sorted(loading["missing_keys"])
    encoder = [key for key in missing if key.startswith(prefix)]
    if encoder:
        raise UserError(
            f"model {args.model_name_or_path} lacks {len(encoder)} encoder weights, {encoder[0]} first:"
            " they would start random; give a complete checkpoint, or --config_name for a random start"
        )
    if missing and not training:
        raise UserError(
            f"model {args.model_name_or_path} has no question-answering head ({missing[0]} is missing):"
            " fine-tune it with train.py first"
        )
    return model


def check_fit(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    if not getattr(config, "vocab_size", None):
        raise UserError(
            f"a {config.model_type} model does not read text: give an encoder such as albert/albert-base-v2"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} pieces and the model knows {config.vocab_size}: they do not fit"
            " together; give the model's own tokenizer"
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


def check_finished(folder: Path) -> None:
    """Raises UserError for the folder of a run that has checkpoints, but no model yet."""
    weights = [path for ending in ("safetensors", "bin") for path in folder.glob(f"*.{ending}")]
    if not weights and (saved := find_checkpoints(folder)):
        raise UserError(
            f"{folder} holds a run that is not finished: run train.py again to finish it, or give its newest"
            f" checkpoint, {saved[0]}"
        )


def saved_settings(args: ModelArguments) -> str | None:
    """Path of the settings that ``train.py`` saved with a model; None where it has none, or there is no model."""
    if not args.model_name_or_path:
        return None
    check_finished(Path(args.model_name_or_path).expanduser())
    try:
        return cached_file(
            args.model_name_or_path,
            SETTINGS,
            revision=args.model_revision,
            cache_dir=args.cache_dir,
            _raise_exceptions_for_missing_entries=False,
        )
    except Exception:  # a model that cannot be had is reported where it is loaded
        return None


def read_settings(path: str | Path | None) -> dict:
    """The settings at ``path``, which ``saved_settings`` found; nothing where there are none."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {} if path else {}

"""Tokenizers and models, from the Hub or a folder, and the settings saved beside them."""

import contextlib
import inspect
import json
import re
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
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils import logging as transformers_logging

from qa.arguments import ModelArguments
from qa.checkpoints import find_checkpoints
from qa.errors import UserError, one_line, say

SETTINGS = "settings.yaml"
SIZES = (  # of a configuration, and the most that can be meant
    (("num_hidden_layers", "num_hidden_groups", "inner_group_num", "n_layer", "n_layers"), 1_000),
    (("num_attention_heads", "hidden_size", "embedding_size", "intermediate_size"), 1_000_000),
    (("vocab_size",), 100_000_000),
)
FEWEST = 0.75  # pieces of a tokenizer for one of the model's; some models round their number up
LAYER = re.compile(r"\.\d+\.")  # in the name of a layer's weight
HYPERPARAMETERS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "fp16", "bf16", "seed"),
)
# The settings that are published with a model, and the only ones taken from a model on the Hub: none names a file
# or a folder, or says what to write.
PUBLISHED = (
    *("model_name_or_path", "dataset_name", "dataset_config_name", "validation_split_percentage"),
    *("max_train_samples", "max_eval_samples", "version_2_with_negative", "max_seq_length", "doc_stride"),
    *("max_query_length", "first_window_only", "pad_to_max_length", "n_best_size", "max_answer_length"),
    *("null_score_diff_threshold", "eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model"),
    *("data_seed", "lr_scheduler_kwargs", "optim_args", "neftune_noise_alpha", *HYPERPARAMETERS),
)
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


@contextlib.contextmanager
def loading(what: str, name: str):
    """Whatever goes wrong inside is said in one line: the Hub's client, a dozen parsers, panics of native code."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of the tokenizers is no Exception
        raise cannot_load(what, name, error) from None


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
        refuse_pickled_shards(args)
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


def check_finished(folder: Path) -> None:
    """Raises UserError for the folder of a run that has checkpoints, but no model yet."""
    weights = [path for ending in ("safetensors", "bin") for path in folder.glob(f"*.{ending}")]
    if not weights and (saved := find_checkpoints(folder)):
        raise UserError(
            f"{folder} holds a run that is not finished: run train.py again to finish it, or give its newest"
            f" checkpoint, {saved[0]}"
        )


def saved_settings(args: ModelArguments) -> str | None:
    """Path of the settings that ``train.py`` saved with a model; None where it has none, or there is no model.

    Those of a model on the Hub are somebody else's: passed over, which is said, if they set more than ``PUBLISHED``.
    """
    if not args.model_name_or_path:
        return None
    check_finished(Path(args.model_name_or_path).expanduser())
    try:
        path = find_file(args, SETTINGS)
    except Exception:  # a model that cannot be had is reported where it is loaded
        return None
    if path is None or Path(args.model_name_or_path).expanduser().is_dir():
        return path
    try:
        names = set(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError):
        names = {"something else"}
    foreign = sorted(map(str, names - set(PUBLISHED)))
    if foreign:
        say(f"note: the {SETTINGS} of {args.model_name_or_path} is passed over: it sets {foreign[0]}")
        return None
    return path


def read_settings(path: str | Path | None) -> dict:
    """The settings at ``path``, which ``saved_settings`` found; nothing where there are none."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {} if path else {}


def find_file(args: ModelArguments, name: str) -> str | None:
    """Path of one file of a model, downloaded if need be; None where the model has no such file."""
    return cached_file(
        args.model_name_or_path,
        name,
        revision=args.model_revision,
        cache_dir=args.cache_dir,
        _raise_exceptions_for_missing_entries=False,
    )


def refuse_pickled_shards(args: ModelArguments) -> None:
    """Raises UserError where the list of weight files names others than safetensors, which would be unpickled."""
    if index := find_file(args, SAFE_WEIGHTS_INDEX_NAME):
        for shard in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values():
            if not str(shard).endswith(".safetensors"):
                raise UserError(f"model {args.model_name_or_path}: {shard!r:.80} is a pickle, and no pickle is loaded")

"""Load a model's weights, and reject corrupt or incomplete ones."""

import re
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from qa.io.run_folder import SETTINGS
from qa.model.decoders import key_mapping, save_under_own_names
from qa.model.loading import hub_options, load_config, loading
from qa.model.weight_files import check_weight_files
from qa.options.arguments import ModelArguments
from qa.runtime.errors import UserError

LAYER = re.compile(r"\.\d+\.")  # in the name of a weight of a layer


def load_model(args: ModelArguments, config: PretrainedConfig, training: bool) -> PreTrainedModel:
    """Load pretrained weights in fp32, never from a pickle; random weights if ``config_name`` is set.

    Raises:
        UserError: the checkpoint lacks encoder weights, which would be random, or has some that the configuration does
            not use; weights are not finite; or, unless ``training``, it has no question-answering head.
    """
    name = args.config_name or args.model_name_or_path or ""
    with loading("model", name):
        if args.config_name:
            return AutoModelForQuestionAnswering.from_config(config)
        model, missing, unexpected = read_weights(args, config)
        check_weights(name, model, missing, unexpected, training)
        if not training and (Path(name).expanduser() / SETTINGS).is_file():
            check_complete(name, missing, unexpected)
    return model


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """Load the weights of a checkpoint or finished model that ``train.py`` wrote, in fp32 on the CPU.

    Raises:
        UserError: it cannot be read, weights are missing or not used, or not finite.
    """
    args = ModelArguments(model_name_or_path=str(folder))
    with loading("model", str(folder)), torch.random.fork_rng(devices=[]):  # a run in progress keeps its random state
        model, missing, unexpected = read_weights(args, load_config(args))
        check_complete(str(folder), missing, unexpected)
        check_weights(str(folder), model, missing, unexpected, training=False)
    return model


def read_weights(args: ModelArguments, config: PretrainedConfig) -> tuple[PreTrainedModel, list[str], list[str]]:
    """Read a model's weights, the only way in which this package does: ``from_pretrained`` converts old names.

    Returns:
        The model in fp32, the names of weights that its files lack, which are random, and of those it does not use.
        Neither contains weights that are tied to others, or that transformers ignores for this architecture.
    """
    check_weight_files(args)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # missing weights are reported by the callers
    try:
        model, found = AutoModelForQuestionAnswering.from_pretrained(
            args.model_name_or_path or "",
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            key_mapping=key_mapping(config),
            **hub_options(args),
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    save_under_own_names(model)
    return model, sorted(found["missing_keys"]), sorted(found["unexpected_keys"])


def check_complete(name: str, missing: list[str], unexpected: list[str]) -> None:
    """Check that a model that ``train.py`` wrote, with all of its weights and no others, is read completely.

    Raises:
        UserError: a weight is missing or not used.
    """
    for keys, what in ((missing, "lacks"), (unexpected, "has, but does not use,")):
        if keys:
            raise UserError(
                f"model {name} {what} {len(keys)} weights, such as {keys[0]!r:.80}, although train.py wrote it: its"
                " files belong to different models, or the installed transformers reads them differently. Copy them"
                " again, or install the release named in its config.json"
            )


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

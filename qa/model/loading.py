"""Find models on the Hub or in a folder, load their configurations, and report what cannot be loaded."""

import contextlib
import functools
import re
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig

from qa.data.cache import CACHE_ADVICE
from qa.io.files import is_disk_error
from qa.io.nearest import did_you_mean, nearest_path
from qa.io.run_folder import CONFIG
from qa.options.arguments import ModelArguments
from qa.options.early import check_model_path
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line, writing_error

SIZE_LIMITS = (  # fields of a configuration, and their largest plausible value
    (("num_hidden_layers", "num_hidden_groups", "inner_group_num", "n_layer", "n_layers"), 1_000),
    (("num_attention_heads", "hidden_size", "embedding_size", "intermediate_size"), 1_000_000),
    (("vocab_size",), 100_000_000),
)


def loading_error(what: str, name: str, error: BaseException) -> UserError:
    """Return the error to report when the tokenizer or model ``name`` could not be loaded."""
    if is_disk_error(error):
        return writing_error(None, error, f"{what} {name}: the cache of downloads", CACHE_ADVICE)
    if Path(name).expanduser().is_dir():
        if not (Path(name) / CONFIG).is_file():
            return UserError(
                f"{what} {name} cannot be loaded: the folder has no config.json, so it is not a model folder"
            )
        reason = missing_converter(error) or one_line(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights are incomplete or corrupt ({reason}): copy or download them again"
        return UserError(f"{what} {name} cannot be loaded: {reason}")
    if converter := missing_converter(error):
        return UserError(f"{what} {name} cannot be loaded: {converter}")
    if nearest := nearest_path(name):
        return UserError(
            f"{name}: no such folder: did you mean {nearest}? As a name on the Hub it could not be loaded either:"
            f" {one_line(error)}"
        )
    return UserError(
        f"{what} {name} could not be loaded: {one_line(error)} Check the name (there is no such folder) and the"
        " network, log in with `hf auth login`, give a local folder, or try --config configs/demo.yaml"
    )


def missing_converter(error: BaseException) -> str | None:
    """Return which packages to install for a tokenizer of an old format; None if something else is wrong.

    transformers names only the last that it tried, which need not be the one that reads the file.
    """
    if not re.search("sentencepiece|tiktoken|protobuf", str(error), re.IGNORECASE):
        return None
    missing = [name for name in ("sentencepiece", "google.protobuf", "tiktoken") if not is_installed(name)]
    if not missing:
        return None
    packages = " ".join(missing).replace("google.", "")
    return f"it has no tokenizer.json, and reading its vocabulary needs more packages: pip install {packages}"


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would contain it
        return False


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
        UserError: the name is that of a file, or a path where there is no folder.
    """
    check_model_path(name)
    if not Path(name).expanduser().exists():
        hint = f" (there is no such folder{did_you_mean(name)})" if nearest_path(name) else ""
        warn(f"looking for {name} on the Hub{hint}")


def hub_options(args: ModelArguments) -> dict:
    """Return the arguments of ``from_pretrained`` that follow from the options."""
    return {"revision": args.model_revision, "cache_dir": args.cache_dir, "trust_remote_code": False}


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


def position_limit(config: PretrainedConfig) -> int | None:
    """Return the longest input in tokens; None if the architecture has no limit. RoBERTa reserves two positions."""
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0 or config.model_type in ("xlnet", "deberta", "deberta-v2"):
        return None
    reserved = config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text")
    return limit - 2 if reserved else limit

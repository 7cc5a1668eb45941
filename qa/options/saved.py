"""The settings saved with a model: where they lie, and which of them are published or taken from others."""

from pathlib import Path

import yaml
from transformers.utils import cached_file

from qa.io.run_folder import FINISHED, LOCK, SETTINGS, find_checkpoints
from qa.options.arguments import ModelArguments
from qa.runtime.console import warn
from qa.runtime.errors import UserError

HYPERPARAMETERS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "precision", "fp16", "bf16"),
    "seed",
)
# The settings that are published with a model, and the only ones taken from a model on the Hub: none names a file
# or a folder, or says what to write.
PUBLISHED = (
    *("model_name_or_path", "dataset_name", "dataset_config_name", "validation_split_percentage", "columns"),
    *("max_train_samples_per_source",),
    *("max_train_samples", "max_eval_samples", "version_2_with_negative", "max_seq_length", "doc_stride"),
    *("max_query_length", "first_window_only", "pad_to_max_length", "n_best_size", "max_answer_length"),
    *("null_score_diff_threshold", "eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model"),
    *("data_seed", "lr_scheduler_kwargs", "optim_args", "neftune_noise_alpha", "fused_gelu", "dropout"),
    "attn_implementation",
    *("activation_checkpointing", *HYPERPARAMETERS),
)


def check_finished(folder: Path) -> None:
    """Raises UserError for the folder of a run that has not come to its end."""
    if (folder / LOCK).exists() and not (folder / FINISHED).exists():
        saved = find_checkpoints(folder)
        raise UserError(
            f"{folder} holds a run that is not finished: run train.py again to finish it"
            + (f", or give its newest checkpoint, {saved[0]}" if saved else "")
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
        warn(f"note: the {SETTINGS} of {args.model_name_or_path} is passed over: it sets {foreign[0]}")
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

"""The settings saved with a model: which options they hold, where they are, and whether they are used."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml

from qa.io.run_folder import FINISHED, LOCK, SETTINGS, find_checkpoints
from qa.io.run_lock import find_running
from qa.options.arguments import ModelArguments
from qa.options.table import TABLE, find_option
from qa.options.training_fields import OurTrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError

if TYPE_CHECKING:
    from qa.options.training_arguments import TrainingOptions


def as_settings(*parsed) -> dict:
    """Return options as plain values for a YAML file that ``--config`` reads back.

    Of ``TrainingArguments`` only what differs from its defaults; never a token.
    """
    settings: dict = {}
    for arguments in parsed:
        if isinstance(arguments, OurTrainingOptions):
            settings |= training_settings(cast("TrainingOptions", arguments))
        else:
            values = dataclasses.asdict(arguments)
            settings |= {name: value[0] if is_single(value) else value for name, value in values.items()}
    return settings


def is_single(value) -> bool:
    return isinstance(value, list) and len(value) == 1


def training_settings(args: "TrainingOptions") -> dict:
    """Return the options of training that differ from their defaults, as plain values."""
    default, values = type(args)(output_dir="").to_dict(), args.to_dict()
    names = {item.name for item in dataclasses.fields(args) if item.init and is_saved(item.name)}
    settings = {name: value for name, value in values.items() if name in names and value != default[name]}
    if settings.pop("bf16", False):  # fails without a GPU that supports it; precision does not
        settings["precision"] = "bf16"
    return settings


def is_saved(name: str) -> bool:
    row = find_option(name)
    return row.saved and not row.instead


def with_full_paths(settings: dict) -> dict:
    """Return settings with absolute paths for all files."""
    return {name: full_path(value) if find_option(name).path else value for name, value in settings.items()}


def full_path(name: str | list | None) -> str | list | None:
    """Return the full path of a file, or of several."""
    if isinstance(name, list):
        return [full_path(each) for each in name]
    return name and str(Path(name).expanduser().resolve())


def published_names() -> list[str]:
    """Return the options that a published model has in its settings, in the table's order."""
    return [row.name for row in TABLE.values() if row.published != "no"]


def check_finished(folder: Path) -> None:
    """Raise UserError if the folder contains an unfinished run."""
    if (folder / LOCK).exists() and not (folder / FINISHED).exists():
        saved, running = find_checkpoints(folder), find_running(folder)
        state = f"{folder} contains an unfinished run: run train.py again to finish it"
        if running:
            state = f"{folder}: this run is still running ({running}): wait until it is done"
        raise UserError(state + (f", or give its newest checkpoint, {saved[0]}" if saved else ""))


def saved_settings(args: ModelArguments) -> str | None:
    """Return the path of the settings that ``train.py`` saved with a model; None without such or without a model.

    Those of a model on the Hub are not trusted: skipped with a note if they set anything that is never published.
    """
    if not args.model_name_or_path:
        return None
    check_finished(Path(args.model_name_or_path).expanduser())
    try:
        path = find_file(args, SETTINGS)
    except Exception:  # a model that cannot be found is reported where it is loaded
        return None
    if path is None or Path(args.model_name_or_path).expanduser().is_dir():
        return path
    try:
        names = set(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError):
        names = {"something else"}
    foreign = sorted(map(str, names - set(published_names())))
    if foreign:
        warn(f"note: the {SETTINGS} of {args.model_name_or_path} is skipped: it sets {foreign[0]}")
        return None
    return path


def read_settings(path: str | Path | None) -> dict:
    """Return the settings at ``path``, which ``saved_settings`` found; an empty dictionary for None."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {} if path else {}


def find_file(args: ModelArguments, name: str) -> str | None:
    """Return the path of one file of a model, downloaded if need be; None if the model has no such file."""
    folder = Path(args.model_name_or_path or "")
    if folder.is_dir():  # found without transformers, which takes seconds to import
        return str(folder / name) if (folder / name).is_file() else None

    from transformers.utils import cached_file

    return cached_file(
        args.model_name_or_path or "",
        name,
        revision=args.model_revision,
        cache_dir=args.cache_dir,
        _raise_exceptions_for_missing_entries=False,
    )

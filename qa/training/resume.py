"""One run in one folder: whether it may start there, what it resumes from, and the settings it must agree with."""

import math
import shutil
from pathlib import Path

import yaml
from transformers import TrainingArguments

from qa.io import run_folder
from qa.io.run_folder import SETTINGS
from qa.options.levels import PRECISIONS, stated_precision
from qa.options.saved import read_settings, training_settings
from qa.options.table import TABLE, find_option
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError
from qa.training import checkpoints


def check_output_folder(args: TrainingOptions) -> None:
    """Check the output folder before any data is read; raise UserError if the run cannot start or resume in it."""
    folder = args.folder
    run_folder.reject_in_checkpoint(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give another --output_dir")
    asked, finished = resume_argument(args), (folder / run_folder.FINISHED).exists()
    is_run = finished or (folder / run_folder.LOCK).exists()
    if not is_run and (other := run_folder.find_output(folder)):
        raise UserError(
            f"{other} is not from a run of train.py, which would replace it or take it for its own: give another"
            " --output_dir"
        )
    if asked and args.overwrite_output_dir:
        raise UserError("overwrite_output_dir and resume_from_checkpoint are mutually exclusive: give one of them")
    if finished and not args.overwrite_output_dir and not asked:
        raise UserError(
            f"{folder}: this run is finished. Evaluate or ask the model, give another --output_dir, or train from"
            " scratch with --overwrite_output_dir true, which deletes it"
        )
    if asked == "last" and not run_folder.find_checkpoints(folder):
        raise UserError(f"{folder}: no checkpoint to resume from; leave out --resume_from_checkpoint")
    if asked and asked != "last" and not Path(asked).is_dir():
        raise UserError(f"{asked}: no such checkpoint folder; --resume_from_checkpoint last takes the newest")


def resume_argument(args: TrainingArguments) -> str | None:
    """Return ``last``, a folder, or None."""
    asked = args.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        return None
    return "last" if asked.lower() in ("true", "last") else asked


def likely_start(args: TrainingOptions) -> Path | None:
    """Return the checkpoint to resume from if it is intact, which takes long to check; None without one."""
    if args.overwrite_output_dir:
        return None
    asked = resume_argument(args)
    return Path(asked) if asked and asked != "last" else next(iter(run_folder.find_checkpoints(args.folder)), None)


def kept_precision(args: TrainingOptions, start: Path | None) -> str | None:
    """Return the precision of the checkpoint ``start``; None without one, or if the options ask for another.

    So the choice is made once: on a busy machine it could be another one.
    """
    if start is None or not (start / SETTINGS).is_file():
        return None
    try:
        before, resolved = read_settings(start / SETTINGS), checkpoints.read_resolved(start)
        if not resolved:  # up to 1c928e6: the settings are those that were used
            return stated_precision(before) or "fp32"
    except (OSError, ValueError, yaml.YAMLError):  # damaged, so that an older one is resumed
        return None
    now = training_settings(args)
    unchanged = all(before.get(name) == now.get(name) for name in ("precision", *PRECISIONS))
    return resolved.get("precision") if unchanged else None


def find_start(args: TrainingOptions, settings: dict, old_settings: dict, windows: str) -> Path | None:
    """Return the checkpoint to resume from, None to train from scratch. The caller must hold the folder's lock.

    Args:
        settings: of this run, with resolved values instead of requested ones. old_settings: the same as 1c928e6
            would have saved them.
        windows: fingerprint of its training windows, as in ``checkpoints.commit_checkpoint``.

    Raises:
        UserError: no intact checkpoint, although one was requested; or settings that would change the result of the
            interrupted run, unless resuming was requested.
    """
    folder, asked = args.folder, resume_argument(args)
    if args.overwrite_output_dir:
        checkpoints.clear(folder)
    shutil.rmtree(folder / run_folder.STAGING, ignore_errors=True)
    start: Path | None
    skipped: list[str] = []
    if asked and asked != "last":
        start = Path(asked)
        if reason := checkpoints.find_corruption(start):
            raise UserError(f"{start}: not an intact checkpoint: {reason}")
    else:
        start, skipped = checkpoints.newest_intact(folder)
    for line in skipped:
        warn(f"warning: {line}; skipped")
    if start is None:
        if asked:
            raise UserError(f"{folder}: no intact checkpoint to resume from")
        return None
    is_old = "resolved" not in checkpoints.read_manifest(start)
    if not is_old and (kept := kept_precision(args, start)):
        settings = settings | {"precision": kept}  # another one only where this device lacks it
    harmless, harmful = compare_settings(start, old_settings if is_old else settings, windows)
    if harmful and not asked:
        raise UserError(
            f"{folder} contains an interrupted run with other settings: {', '.join(harmful)}. Use the same settings,"
            " resume anyway with --resume_from_checkpoint last, or train from scratch with --overwrite_output_dir true"
        )
    print(f"resuming from {start}")
    if has_old_windows(checkpoints.read_manifest(start)):
        warn(
            f"note: {start} was written by an earlier version: only the settings of its training windows were compared"
        )
    if harmless or harmful:
        warn(f"note: settings changed since that checkpoint: {', '.join(harmful + harmless)}")
    return start


def has_old_windows(manifest: dict) -> bool:
    """Return whether a checkpoint identifies its windows as 1c928e6 did, by the code that made them."""
    return bool(manifest) and "window_format" not in manifest


def compare_settings(start: Path, settings: dict, windows: str) -> tuple[list[str], list[str]]:
    """Return the differences to a checkpoint's settings: those that do not change the result, and those that may.

    On both sides resolved values replace the requested ones, as they determine the result.
    """
    path, manifest = start / SETTINGS, checkpoints.read_manifest(start)
    if not path.is_file():
        return [], []
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(yaml.safe_dump(settings))
    resolved = manifest.get("resolved", {})
    before |= resolved
    default, same_windows = TrainingOptions(output_dir="").to_dict(), manifest.get("windows") == windows
    comparable = bool(manifest) and not has_old_windows(manifest)
    harmless: list[str] = []
    harmful = ["the training windows"] if comparable and not same_windows else []
    step = [row.name for row in TABLE.values() if row.changes_result == "unless_same_step"]
    sizes = [math.prod(each.get(name, default[name]) for name in step) for each in (before, now)]
    unchanged = {"never": True, "unless_same_windows": same_windows, "unless_same_step": sizes[0] == sizes[1]}
    names = (before.keys() | now.keys()) - (set(PRECISIONS) if "precision" in resolved else set())
    for name in sorted(names):
        values = [each.get(name, default.get(name)) for each in (before, now)]
        if values[0] != values[1]:
            fine = unchanged.get(find_option(name).changes_result, False)
            (harmless if fine else harmful).append(f"{name} {values[0]} -> {values[1]}")
    return harmless, harmful

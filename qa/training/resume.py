"""One run in one folder: who holds it, where it goes on from, and how it is stopped."""

import json
import math
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from transformers import TrainingArguments

from qa.io import run_folder
from qa.io.files import write_json
from qa.io.run_folder import HOLDER, SETTINGS
from qa.options.table import TABLE, find_option
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError
from qa.training import checkpoints


class TrainingInterrupted(Exception):
    """Training was asked to stop by a signal, and has saved all it did."""

    def __init__(self, number: int, checkpoint: Path):
        super().__init__(f"stopped: all is saved in {checkpoint}; run the same command again to go on")
        self.status = 128 + number


class SignalHandler:
    """Within ``with``: the first Ctrl-C or SIGTERM is only noted, the second acts at once."""

    def __init__(self):
        self.number: int | None = None

    def note(self, number: int, frame) -> None:
        if self.number is not None:
            self.restore()
            signal.raise_signal(number)
        else:
            self.number = number
            warn("stopping after this step, to save it; once more to stop at once")

    def __enter__(self) -> "SignalHandler":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self.restore()


def check_output_folder(args: TrainingArguments) -> None:
    """What can be said of the folder before any data is read; raises UserError where training makes no sense."""
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give another --output_dir")
    asked, ours = (
        resume_argument(args),
        (folder / run_folder.LOCK).exists() or (folder / run_folder.FINISHED).exists(),
    )
    if folder.is_dir() and not ours and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty, and holds no run of train.py: give a new --output_dir")
    if asked and args.overwrite_output_dir:
        raise UserError("overwrite_output_dir starts anew and resume_from_checkpoint goes on: give one of them")
    if (folder / run_folder.FINISHED).exists() and not args.overwrite_output_dir and not asked:
        raise UserError(
            f"{folder}: this run is finished. Evaluate or ask the model, give another --output_dir, or train anew with"
            " --overwrite_output_dir true, which deletes it"
        )
    if asked == "last" and not run_folder.find_checkpoints(folder):
        raise UserError(f"{folder}: no checkpoint to resume from; leave out --resume_from_checkpoint")
    if asked and asked != "last" and not Path(asked).is_dir():
        raise UserError(f"{asked}: no such checkpoint folder; --resume_from_checkpoint last takes the newest")


def resume_argument(args: TrainingArguments) -> str | None:
    """``last``, a folder, or None."""
    asked = args.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        return None
    return "last" if asked.lower() in ("true", "last") else asked


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Keeps other runs out of ``folder``; the system lets go of it when the process ends, however it ends."""
    lock, holder = FileLock(folder / run_folder.LOCK, timeout=0), folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        try:
            who = "process {process} on {host}, since {since}".format(**json.loads(holder.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise UserError(f"{folder} is in use by {who}: wait for it, stop it, or give another --output_dir") from None
    try:
        since = datetime.now().isoformat(" ", timespec="seconds")
        write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def find_start(args: TrainingArguments, settings: dict, old_settings: dict, windows: str) -> Path | None:
    """The checkpoint to go on from, None to begin at the beginning. Needs the folder's lock.

    Args:
        settings: of this run, with what is resolved in place of what was asked for. old_settings: the same as 1c928e6
            would have saved them.
        windows: the name of its training windows, as in ``checkpoints.commit_checkpoint``.

    Raises:
        UserError: no whole checkpoint where one was asked for; other settings than the interrupted run's, which
            would change its result, where nobody asked to go on.
    """
    folder, asked = Path(args.output_dir), resume_argument(args)
    if args.overwrite_output_dir:
        checkpoints.clear(folder)
    shutil.rmtree(folder / run_folder.STAGING, ignore_errors=True)
    if asked and asked != "last":
        start, passed = Path(asked), []
        if reason := checkpoints.find_corruption(start):
            raise UserError(f"{start}: not a whole checkpoint: {reason}")
    else:
        start, passed = checkpoints.newest_intact(folder)
    for line in passed:
        warn(f"warning: {line}; passed over")
    if start is None:
        if asked:
            raise UserError(f"{folder}: no whole checkpoint to resume from")
        return None
    is_old = "resolved" not in checkpoints.read_manifest(start)
    harmless, harmful = compare_settings(start, old_settings if is_old else settings, windows)
    if harmful and not asked:
        raise UserError(
            f"{folder} holds an interrupted run with other settings: {', '.join(harmful)}. Give the same again, go on"
            " all the same with --resume_from_checkpoint last, or start anew with --overwrite_output_dir true"
        )
    print(f"going on from {start}")
    if has_old_windows(checkpoints.read_manifest(start)):
        warn(f"note: {start} is of an earlier version: its training windows were compared by their settings only")
    if harmless or harmful:
        warn(f"note: settings that differ from before: {', '.join(harmful + harmless)}")
    return start


def has_old_windows(manifest: dict) -> bool:
    """Return whether a checkpoint names its windows as 1c928e6 did: by the code that made them, which has changed."""
    return bool(manifest) and "window_format" not in manifest


def compare_settings(start: Path, settings: dict, windows: str) -> tuple[list[str], list[str]]:
    """Return how settings differ from a checkpoint's: differences that leave the result as it is, and the others.

    On both sides what is resolved stands in place of what was asked for: it is what makes the result.
    """
    path, manifest = start / SETTINGS, checkpoints.read_manifest(start)
    if not path.is_file():
        return [], []
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(yaml.safe_dump(settings))
    before |= manifest.get("resolved", {})
    default, same_windows = TrainingOptions(output_dir="").to_dict(), manifest.get("windows") == windows
    comparable = bool(manifest) and not has_old_windows(manifest)
    harmless, harmful = [], ["the training windows"] if comparable and not same_windows else []
    step = [row.name for row in TABLE.values() if row.changes_result == "unless_same_step"]
    sizes = [math.prod(each.get(name, default[name]) for name in step) for each in (before, now)]
    unchanged = {"never": True, "unless_same_windows": same_windows, "unless_same_step": sizes[0] == sizes[1]}
    for name in sorted(before.keys() | now.keys()):
        values = [each.get(name, default.get(name)) for each in (before, now)]
        if values[0] != values[1]:
            fine = unchanged.get(find_option(name).changes_result, False)
            (harmless if fine else harmful).append(f"{name} {values[0]} -> {values[1]}")
    return harmless, harmful

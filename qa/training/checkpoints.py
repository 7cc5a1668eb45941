"""Checkpoints on disk: written atomically, verified by a manifest, and rotated.

Everything is written below ``.saving`` first, flushed, and renamed. A manifest with the size and digest of each file
shows later whether a checkpoint is intact.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy

from qa.data.windows import WINDOW_FORMAT
from qa.io.files import set_default_modes
from qa.io.run_folder import (
    ALL_RESULTS,
    FINISHED,
    MANIFEST,
    OPTIMIZER,
    RECOVERY,
    REGULAR,
    SCHEDULER,
    SHARDED_OPTIMIZER,
    STAGING,
    TENSORBOARD,
    TRAINER_STATE,
    WEIGHTS,
    find_checkpoints,
    step_of,
)
from qa.runtime.console import count
from qa.runtime.errors import UserError, one_line

NEEDED = TRAINER_STATE, WEIGHTS, OPTIMIZER, SCHEDULER
ALTERNATIVE_NAMES = {OPTIMIZER: SHARDED_OPTIMIZER}


def flush(path: Path) -> None:
    """Flush a file or a folder to disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and does not need it
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it
            raise
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_checkpoint(staged: Path, final: Path, windows: str, resolved: dict) -> None:
    """Turn a staged folder into a checkpoint by one rename.

    Args:
        windows: fingerprint of the training windows, so that a run is not resumed with others.
        resolved: the values chosen where the options left them open, so that the run is resumed with the same.
    """
    files = {path.name: [path.stat().st_size, digest(path)] for path in sorted(staged.iterdir())}
    manifest = {"windows": windows, "window_format": WINDOW_FORMAT, "resolved": resolved, "files": files}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    set_default_modes(staged)
    for path in staged.iterdir():
        flush(path)
    flush(staged)
    if final.exists():
        if find_corruption(final) is None:
            return
        final.rename(staged.with_name(f"corrupt-{final.name}"))
    staged.rename(final)
    flush(final.parent)


def find_corruption(folder: Path) -> str | None:
    """Return why a checkpoint is corrupt or incomplete, None if it is intact."""
    found = {name: name if (folder / name).is_file() else ALTERNATIVE_NAMES.get(name, name) for name in NEEDED}
    missing = [name for name, file in found.items() if not (folder / file).is_file()]
    if missing:
        return f"it has no {missing[0]}"
    try:
        if (folder / MANIFEST).is_file():
            for name, (size, expected) in read_manifest(folder)["files"].items():
                if not (folder / name).is_file():
                    return f"it has no {name}"
                if (folder / name).stat().st_size != size or digest(folder / name) != expected:
                    return f"{name} has changed since it was written"
        state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
        if state["global_step"] != step_of(folder):
            return f"{TRAINER_STATE} is of step {state['global_step']}"
        with safe_open(folder / WEIGHTS, "pt") as weights:
            if not weights.keys():
                return f"{WEIGHTS} contains no weights"
        for name in (OPTIMIZER, SCHEDULER):
            if not torch.load(folder / found[name], map_location="cpu", weights_only=True, mmap=True):
                return f"{name} is empty"
    except Exception as error:  # a corrupt file can raise anything
        return f"it cannot be read: {one_line(error)}"
    return None


def read_manifest(folder: Path) -> dict:
    """Return ``windows``, ``window_format``, ``resolved`` and ``files``; empty for a checkpoint of another program.

    Checkpoints up to 1c928e6 have no ``window_format``, as their windows are identified differently, and no
    ``resolved``: their settings contain the resolved values instead of the requested ones.
    """
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_resolved(folder: Path) -> dict:
    """Return what is ``resolved`` in a checkpoint's manifest; empty if it has none, or if it is damaged."""
    try:
        return read_manifest(folder).get("resolved", {})
    except ValueError:
        return {}


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, and a line for each newer one that was skipped."""
    skipped: list[str] = []
    for path in find_checkpoints(folder):
        reason = find_corruption(path)
        if reason is None:
            return path, skipped
        skipped.append(f"{path}: not an intact checkpoint: {reason}")
    return None, skipped


def rotate(folder: Path, limit: int | None, kept: set[Path]) -> None:
    """Remove the oldest regular checkpoints until ``limit`` are left; never the newest and the best (``kept``)."""
    regular = [path for path in find_checkpoints(folder) if path.name.startswith(REGULAR)]
    surplus = len(regular) - max(limit or len(regular), len(kept))
    others = [path for path in reversed(regular) if path not in kept]
    for path in others[: max(surplus, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def remove_recoveries(folder: Path, before: int) -> None:
    """Remove recovery checkpoints of steps before ``before``; call it when a newer checkpoint is complete."""
    for path in find_checkpoints(folder):
        if path.name.startswith(RECOVERY) and step_of(path) < before:
            shutil.rmtree(path, ignore_errors=True)


def clear(folder: Path) -> None:
    """Delete an earlier run, beginning with the file that marks it as finished."""
    for name in (FINISHED, ALL_RESULTS, TRAINER_STATE, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    for path in [*find_checkpoints(folder), folder / STAGING, folder / TENSORBOARD]:
        shutil.rmtree(path, ignore_errors=True)


def move_into_place(staged: Path, folder: Path) -> None:
    """Move the files of a finished model into ``folder``, the weights last: without them it is not a model."""
    files = sorted(staged.iterdir(), key=lambda path: path.suffix == ".safetensors")
    set_default_modes(staged)
    for path in files:
        flush(path)
    (folder / FINISHED).unlink(missing_ok=True)
    for path in files:
        os.replace(path, folder / path.name)
    flush(folder)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def count_checkpoints(args: TrainingArguments, windows: int) -> int:
    """Return how many regular checkpoints a run over ``windows`` keeps at most."""
    if args.save_strategy == SaveStrategy.NO:
        return 0
    steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * windows / args.train_batch_size
    every = {"epoch": steps / args.num_train_epochs, "steps": args.save_steps, "best": 1}.get(
        SaveStrategy(args.save_strategy).value, steps
    )
    saved = max(1, math.ceil(steps / max(every, 1)))
    return min(saved, args.save_total_limit or saved)


def check_space(folder: Path, parameters: int, kept: int) -> bool:
    """Return whether the disk has space for recovery checkpoints, of which a run that keeps no others can do without.

    Args:
        parameters: of the model; a checkpoint has 12 bytes for each: the weight and two Adam states, fp32.
        kept: regular checkpoints.

    Raises:
        UserError: no space for the model, or for ``kept`` checkpoints, one for recovery and one being written.
    """
    model, checkpoint = 4 * parameters, 12 * parameters
    needed = (kept + 2) * checkpoint + model - sum(size_of(path) for path in find_checkpoints(folder))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return True
    if not kept and free >= model:
        return False
    if not kept:
        raise UserError(
            f"{folder}: {model / 2**30:.2f} GiB are needed for the model; {free / 2**30:.2f} GiB are free. Free some,"
            " or give an --output_dir on another disk"
        )
    raise UserError(
        f"{folder}: {needed / 2**30:.2f} GiB are needed for {count(kept, 'checkpoint')} of {checkpoint / 2**30:.2f}"
        f" GiB, one for recovery and one being written; {free / 2**30:.2f} GiB are free. Free some, lower"
        " save_total_limit, give an --output_dir on another disk, or train without checkpoints: --save_strategy no"
        " --load_best_model_at_end false"
    )

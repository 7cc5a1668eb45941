"""Write files atomically."""

import json
import os
from pathlib import Path

import yaml

from qa.io.nearest import did_you_mean
from qa.io.run_folder import reject_in_checkpoint
from qa.runtime.errors import UserError


def make_folder(path: str) -> Path:
    """Create a folder for output, unless it exists, and return its path.

    Raises:
        UserError: it cannot be created or written to, or is in a checkpoint.
    """
    folder = Path(path).expanduser()
    reject_in_checkpoint(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(f"{path}: cannot be used as the output folder: {error.strerror}") from None
    return folder


def set_default_modes(folder: Path) -> None:
    """Give every file in ``folder`` the mode that a new one gets there, by the umask or by the folder's default ACL.

    Libraries that write through a private temporary file leave its mode, 0600: safetensors does.
    """
    probe = folder / f".mode.{os.getpid()}"
    try:
        probe.touch(exist_ok=False)
        mode = probe.stat().st_mode
    finally:
        probe.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mode != mode:
            path.chmod(mode)


def check_writable(option: str, path: str) -> None:
    """Raise UserError unless the folder ``path`` can be written to, or created; nothing is created."""
    folder = Path(path).expanduser().absolute()
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be used: {error.strerror}") from None
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file: give another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {nearest} is not writable: give another folder")


def require_file(path: str) -> None:
    """Raise UserError unless ``path`` is a file."""
    if not Path(path).is_file():
        is_folder = Path(path).is_dir()
        raise UserError(f"{path}: {'is a folder, not a file' if is_folder else 'no such file' + did_you_mean(path)}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete.

    Raises:
        UserError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_bytes(content)
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def remove(path: Path) -> None:
    """Remove a file if it exists.

    Raises:
        UserError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def as_yaml(value: dict) -> str:
    """Return YAML with the keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def write_yaml(path: Path, value: dict) -> None:
    write_text(path, as_yaml(value))

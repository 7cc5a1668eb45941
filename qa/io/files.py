"""Write files atomically."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from qa.io.nearest import did_you_mean
from qa.io.run_folder import reject_in_checkpoint
from qa.runtime.errors import UserError, space_left, writing_error

STDIO = "-"  # what stands for standard input or output in place of a path
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


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
        reason = f"{error.strerror}{space_left(folder, error)}"
        raise UserError(f"{path}: cannot be used as the output folder: {reason}: give another folder") from None
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


def check_writable(**folders: str | None) -> None:
    """Raise UserError unless the folders, by option, can be written to, or created; nothing is created."""
    for option, path in folders.items():
        if path:
            check_writable_folder(option, path)


def check_writable_folder(option: str, path: str) -> None:
    folder = Path(path).expanduser().absolute()
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be used: {error.strerror}") from None
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file: give another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {nearest} is not writable: give another folder")


def is_device(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as bash's ``<(...)`` and ``>(...)``."""
    return path.exists() and not path.is_file() and not path.is_dir()


def require_file(path: str) -> None:
    """Raise UserError unless ``path`` is a file."""
    if not Path(path).is_file():
        is_folder = Path(path).is_dir()
        raise UserError(f"{path}: {'is a folder, not a file' if is_folder else 'no such file' + did_you_mean(path)}")


def failed_to_write(error: BaseException) -> bool:
    """Return whether an error is the system's; Rust libraries wrap it in types of their own."""
    return isinstance(error, OSError) or "(os error " in str(error)


def is_disk_error(error: BaseException | None) -> bool:
    """Return whether a disk that is full or cannot be written is the cause of another library's error."""
    while error is not None:
        if getattr(error, "errno", None) in DISK_ERRORS or f"(os error {errno.ENOSPC})" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Write a file or a folder in the block; a failure becomes a UserError with its path and the free space.

    Args:
        advice: what to do, to be printed after the reason.
    """
    try:
        yield
    except BrokenPipeError:  # the path is a pipe, and its reader has seen enough
        raise
    except Exception as error:
        if not failed_to_write(error):
            raise
        raise writing_error(path, error, advice=advice) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write a file under, and rename it after the block, so that it is never incomplete.

    Raises:
        UserError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            yield staged
            os.replace(staged, path)
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole. Raises UserError if it cannot be written."""
    with replacing(path) as staged:
        staged.write_bytes(content)


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

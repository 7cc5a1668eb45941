"""The lock of a run's folder, which tells a run that is still going from an interrupted one."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from qa.io.files import write_json
from qa.io.run_folder import HOLDER, LOCK
from qa.runtime.errors import UserError, writing_error


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other runs; the system releases the lock when the process ends, even if it is killed."""
    lock, holder = FileLock(folder / LOCK, timeout=0), folder / HOLDER
    try:
        lock.acquire()
    except Timeout:
        who = describe_holder(folder)
        raise UserError(f"{folder} is in use by {who}: wait for it, stop it, or give another --output_dir") from None
    except OSError as error:
        raise writing_error(folder / LOCK, error) from None
    try:
        since = datetime.now().isoformat(" ", timespec="seconds")
        write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def find_running(folder: Path) -> str | None:
    """Return which process is running in ``folder``, None if none is; a killed one leaves its holder file, unlocked."""
    if not (folder / HOLDER).is_file():
        return None
    try:
        with FileLock(folder / LOCK, timeout=0):
            return None
    except Timeout:
        return describe_holder(folder)
    except OSError:  # a folder that cannot be written to
        return None


def describe_holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return "process {process} on {host}, since {since}".format(**holder)
    except (OSError, ValueError, KeyError):
        return "another process"

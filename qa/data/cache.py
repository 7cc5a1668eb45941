"""Where tables are cached on disk, and the key that names one by its content."""

import hashlib
import io
from pathlib import Path

import pyarrow as pa

from qa.io.files import writing

CACHE_ADVICE = "; give another folder with --cache_dir, or free some space"


class Digest(io.RawIOBase):
    """A file that keeps only the SHA-256 of what is written to it."""

    def __init__(self):
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.sha256.update(data)
        return len(data)


def table_key(table: pa.Table) -> str:
    """Return the SHA-256 of a table's content, batch by batch, so that the table need not fit in memory."""
    table, sink = table.replace_schema_metadata(None), Digest()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    return sink.sha256.hexdigest()


def cache_folder(cache_dir: str | None, name: str) -> Path:
    """Create and return the folder ``name`` in ``cache_dir`` (None: the cache of ``datasets``).

    Raises:
        UserError: the folder cannot be created.
    """
    import datasets

    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / name
    with writing(folder, CACHE_ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    return folder

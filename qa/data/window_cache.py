"""Windows on disk: made once, then found by what they were made from."""

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow as pa
import tokenizers
from datasets import Dataset
from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from qa.data import make_windows
from qa.data.windows import FEATURES, WINDOW_FORMAT, WindowSettings
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError


def content_key(examples: Dataset, tokenizer: PreTrainedTokenizerFast, settings: WindowSettings) -> str:
    """Name windows by what decides them: examples, tokenizer, its library's release, lengths and ``WINDOW_FORMAT``."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.pop("truncation"), backend.pop("padding")  # state left by the last call, not part of the tokenizer
    behavior = [tokenizer.padding_side, tokenizer.truncation_side, tokenizer.split_special_tokens]
    parts = [WINDOW_FORMAT, backend, behavior, tokenizers.__version__, asdict(settings), table_key(examples.data.table)]
    digest = hashlib.sha256(json.dumps(parts).encode())
    return digest.hexdigest()[:32]


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
    """Return the SHA-256 of a table's content, which is never in memory as a whole."""
    table, sink = table.replace_schema_metadata(None), Digest()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    return sink.sha256.hexdigest()


def cache_folder(cache_dir: str | None, name: str) -> Path:
    """Make the folder ``name`` of the cache; raises UserError where it cannot be made."""
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; set --cache_dir to another folder") from None
    return folder


def load_windows(
    examples: Dataset, tokenizer: PreTrainedTokenizerFast, args: DataArguments, cache_dir: str | None, name: str
) -> Dataset:
    """Return the windows of ``examples``, from the cache on disk or made and cached now.

    Several processes may call this at once: one makes the windows, the others wait and read them.
    """
    settings = WindowSettings.from_args(args)
    key = content_key(examples, tokenizer, settings)
    folder = cache_folder(cache_dir, "qa_windows")
    with FileLock(folder / f"{key}.lock"):
        return examples.with_format(None).map(
            make_windows.make_windows,
            with_indices=True,
            batched=True,
            remove_columns=examples.column_names,
            features=FEATURES,
            fn_kwargs={"tokenizer": tokenizer, "settings": settings},
            num_proc=args.preprocessing_num_workers,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            load_from_cache_file=not args.overwrite_cache,
            desc=f"windows ({name})",
        )

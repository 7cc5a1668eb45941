"""Windows on disk: made once, found again by what they are made of."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import tokenizers
from datasets import Dataset
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from qa.data import windows
from qa.data.cache import cache_folder, table_key
from qa.options.arguments import DataArguments


def content_key(examples: Dataset, tokenizer: PreTrainedTokenizerBase, settings: windows.WindowSettings) -> str:
    """Names the windows by all that decides them: questions, tokenizer, lengths and this code."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.pop("truncation"), backend.pop("padding")  # state left by the last call, not part of the tokenizer
    digest = hashlib.sha256(Path(windows.__file__).read_bytes())
    digest.update(json.dumps([backend, tokenizer.padding_side, asdict(settings), tokenizers.__version__]).encode())
    digest.update(table_key(examples.data.table).encode())
    return digest.hexdigest()[:32]


def load_windows(
    examples: Dataset, tokenizer: PreTrainedTokenizerBase, args: DataArguments, cache_dir: str | None, name: str
) -> Dataset:
    """The windows of ``examples``, from the cache on disk or made and cached now.

    Safe when several processes ask at once: one makes them, the others wait and read.
    """
    settings = windows.WindowSettings.from_args(args)
    key = content_key(examples, tokenizer, settings)
    folder = cache_folder(cache_dir, "qa_windows")
    with FileLock(folder / f"{key}.lock"):
        return examples.with_format(None).map(
            windows.make_windows,
            with_indices=True,
            batched=True,
            remove_columns=examples.column_names,
            features=windows.FEATURES,
            fn_kwargs={"tokenizer": tokenizer, "settings": settings},
            num_proc=args.preprocessing_num_workers,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            load_from_cache_file=not args.overwrite_cache,
            desc=f"windows ({name})",
        )

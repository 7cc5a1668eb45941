"""Cache of windows on disk, keyed by the content that they are made from."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import tokenizers
from datasets import Dataset, Features, List, Value
from filelock import FileLock

from qa.data import make_windows
from qa.data.cache import CACHE_ADVICE, cache_folder, table_key
from qa.data.tokenized_text import context_first
from qa.data.windows import WINDOW_FORMAT, WindowSettings
from qa.io.files import writing
from qa.options.arguments import DataArguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FEATURES = Features(
    {
        "example_index": Value("int64"),  # row of the window's example
        "input_ids": List(Value("int32")),
        "token_type_ids": List(Value("int8")),
        "offset_mapping": List(List(Value("int32"), length=2)),  # of the context tokens only, [start, end)
        "context_start": Value("int32"),  # position of the first context token
        "cls_index": Value("int32"),
        "start_positions": Value("int32"),
        "end_positions": Value("int32"),
        "question_cut": Value("bool"),
        "length": Value("int32"),
    }
)


def content_key(examples: Dataset, tokenizer: "PreTrainedTokenizerFast", settings: WindowSettings) -> str:
    """Return the cache key of windows: a digest of examples, tokenizer, its library's release, lengths and format."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.pop("truncation"), backend.pop("padding")  # state left by the last call, not part of the tokenizer
    side = "left" if context_first(tokenizer) else "right"
    behavior = [side, tokenizer.truncation_side, tokenizer.split_special_tokens]
    parts = [WINDOW_FORMAT, backend, behavior, tokenizers.__version__, asdict(settings), table_key(examples.data.table)]
    digest = hashlib.sha256(json.dumps(parts).encode())
    return digest.hexdigest()[:32]


def load_windows(
    examples: Dataset, tokenizer: "PreTrainedTokenizerFast", args: DataArguments, cache_dir: str | None, name: str
) -> Dataset:
    """Return the windows of ``examples`` from the cache on disk, making and caching them if they are missing.

    Several processes may call this at once: one makes the windows, the others wait and read them.
    """
    settings = WindowSettings.from_args(args)
    key = content_key(examples, tokenizer, settings)
    folder = cache_folder(cache_dir, "qa_windows")
    with writing(folder, CACHE_ADVICE), FileLock(folder / f"{key}.lock"):
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

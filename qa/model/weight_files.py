"""Check a model's weight files without reading the weights: that they exist, are complete, and are no pickles."""

import contextlib
import json
import shlex
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from qa.model.loading import announce, loading
from qa.options.arguments import ModelArguments
from qa.options.saved import find_file
from qa.runtime.errors import UserError

SAFE = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
CONVERTER = "SFconvertbot"  # the Hub's own; a pull request of anyone else may hold other weights
MAX_PULL_REQUESTS = 5
CONVERT = """import torch, safetensors.torch as s
w = torch.load({pickle!r}, "cpu", weights_only=True)
s.save_file({{k: v.clone() for k, v in w.items()}}, {safe!r}, {{"format": "pt"}})"""


def check_weight_files(args: ModelArguments) -> None:
    """Check the weight files of a pretrained model; those on the Hub by their names, without downloading them.

    Raises:
        UserError: there are no weights, or only pickled ones, which can run code when they are read; or files are
            missing, incomplete or corrupt.
    """
    name = args.model_name_or_path or ""
    if args.config_name:
        return
    announce(name)
    folder = Path(name).expanduser()
    with loading("model", name):
        local = folder.is_dir()
        names = {path.name for path in folder.iterdir()} if local else files_on_hub(args)
        shards = shards_of(args) if SAFE_WEIGHTS_INDEX_NAME in names else []
        if pickled := next((shard for shard in shards if not shard.endswith(".safetensors")), None):
            raise UserError(f"model {name}: {pickled!r:.80} is a pickle, which could run code here: {advise(args)}")
        if not names & set(SAFE):
            check_absence(args, names, local)
        elif local:
            check_headers(name, folder, [SAFE_WEIGHTS_NAME] if SAFE_WEIGHTS_NAME in names else shards)


def files_on_hub(args: ModelArguments) -> set[str]:
    """Return the names of a repository's files, or of its cached weights; none if the Hub cannot be reached."""
    name = args.model_name_or_path or ""
    options = {"cache_dir": args.cache_dir, "revision": args.model_revision}
    with contextlib.suppress(Exception):  # what is wrong with the name or the network is reported on loading
        if cached := {file for file in SAFE if isinstance(try_to_load_from_cache(name, file, **options), str)}:
            return cached
        return set(HfApi().list_repo_files(name, revision=args.model_revision))
    return set()


def shards_of(args: ModelArguments) -> list[str]:
    """Return the files that the index of the weights names."""
    index = json.loads(Path(find_file(args, SAFE_WEIGHTS_INDEX_NAME) or "").read_text(encoding="utf-8"))
    return sorted(set(map(str, index["weight_map"].values())))


def check_absence(args: ModelArguments, names: set[str], local: bool) -> None:
    """Raise UserError for a model without safetensors weights; not if its files could not be listed."""
    name = args.model_name_or_path
    if pickled := sorted(names & {WEIGHTS_NAME, WEIGHTS_INDEX_NAME}):
        raise UserError(
            f"model {name} has only pickled weights ({pickled[0]}), which could run code here: {advise(args)}"
        )
    if local:
        raise UserError(
            f"model {name} has no weights ({SAFE_WEIGHTS_NAME}): copy them into the folder, or train from random"
            f" weights with --config_name {shlex.quote(str(name))}"
        )
    if names:
        raise UserError(f"model {name} has no weights in safetensors format: choose another model")


def check_headers(name: str, folder: Path, files: list[str]) -> None:
    """Read the header of each file, which states the file's length.

    Raises:
        UserError: a file is missing. SafetensorError: one is incomplete or corrupt.
    """
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"model {name} lacks {len(missing)} of its {len(files)} weight files, such as {missing[0]!r:.80}:"
            " copy or download them again"
        )
    for file in files:
        with safe_open(folder / file, framework="pt"):
            pass


def advise(args: ModelArguments) -> str:
    """Return how to get the weights of a pickle in safetensors format."""
    name = args.model_name_or_path or ""
    folder = Path(name).expanduser()
    if (folder / WEIGHTS_NAME).is_file():
        code = CONVERT.format(pickle=str(folder / WEIGHTS_NAME), safe=str(folder / SAFE_WEIGHTS_NAME))
        return f"if you trust it, convert it: python -c {shlex.quote(code.replace(chr(10), '; '))}"
    if folder.is_dir():
        return "use a model with safetensors weights"
    if revision := converted_revision(name):
        return f"use the same weights in safetensors format: --model_revision {revision}"
    return "convert it on https://huggingface.co/spaces/safetensors/convert, or use a model with safetensors weights"


def converted_revision(name: str) -> str | None:
    """Return the pull request with the Hub's own conversion to safetensors; None without one."""
    api = HfApi()
    with contextlib.suppress(Exception):
        requests = api.get_repo_discussions(name, author=CONVERTER, discussion_type="pull_request")
        for request, _ in zip(requests, range(MAX_PULL_REQUESTS), strict=False):
            revision = f"refs/pr/{request.num}"
            if request.author == CONVERTER and set(api.list_repo_files(name, revision=revision)) & set(SAFE):
                return revision
    return None

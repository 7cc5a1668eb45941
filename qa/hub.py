"""Sending a finished model to the Hub: checked before training, and only files chosen by name."""

from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainingArguments

from qa.errors import UserError, one_line

# Never settings, optimizer states, logs or checkpoints: they hold paths, and are of no use to others.
SENT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "spiece.model",
    "eval_results.json",
    "README.md",
)


def repository(args: TrainingArguments) -> str:
    return args.hub_model_id or Path(args.output_dir).name


def check_before(args: TrainingArguments) -> None:
    """Raises UserError, before anything is trained, where a push would fail at the end."""
    try:
        api = HfApi()
        api.whoami()
        api.create_repo(repository(args), private=args.hub_private_repo, exist_ok=True)
    except Exception as error:  # the client's errors have no common ancestor
        raise UserError(
            f"cannot push to the Hub as {repository(args)}: {one_line(error)}; log in with `hf auth login` and a"
            " token that may write, set hub_model_id to USER/NAME, or set push_to_hub: false"
        ) from None


def push(folder: Path, args: TrainingArguments) -> str:
    """Uploads the model and returns its address."""
    try:
        api = HfApi()
        url = api.create_repo(repository(args), private=args.hub_private_repo, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, allow_patterns=list(SENT), ignore_patterns=["checkpoint-*/*"]
        )
    except Exception as error:
        raise UserError(
            f"the model is complete in {folder}, but was not pushed: {one_line(error)}; repeat the upload with"
            f" `hf upload {repository(args)} {folder} --exclude 'checkpoint-*/*' --exclude 'runs/*'`"
        ) from None
    return str(url)

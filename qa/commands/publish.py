"""Publish a model: what publish.py does."""

from pathlib import Path

from qa.hub import publish as hub
from qa.hub.dry_run import describe_upload
from qa.options.arguments import PublishArguments
from qa.runtime.process import configure_process


def publish(folder: Path, hub_model_id: str, args: PublishArguments) -> None:
    """Upload the model in a folder, or print what would be uploaded."""
    configure_process(reads_datasets=False)
    target = hub.Target(hub_model_id, args.private, args.revision, args.tag)
    print(describe_upload(folder, target) if args.dry_run else f"published: {hub.push(folder, target)}")

"""Publish a finished model on the Hub: checked before training, only files listed by name, and safe to repeat."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import LogRecord
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import validate_repo_id
from transformers import TrainingArguments

from qa.hub.model_card import load_json, make_card, published_settings
from qa.io import run_folder
from qa.io.files import as_yaml
from qa.io.run_folder import FINISHED, RUN, SETTINGS
from qa.model.weights import load_checkpoint
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line

# Files that are uploaded, besides the card and the cleaned settings. Never optimizer states, logs, caches or pickles.
UPLOADED_FILES = (
    run_folder.CONFIG,
    run_folder.WEIGHTS,
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    run_folder.TOKENIZER,
    run_folder.TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    run_folder.SCORES,
    run_folder.CURVES,
)
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
RETRY_DELAYS = (1, 5, 20)  # seconds before each retry
MAX_RETRY_AFTER = 120  # seconds; a longer wait requested by the Hub is an error
ADVICE = {
    401: "log in with `hf auth login`",
    403: "use a token with write access (https://huggingface.co/settings/tokens)",
    409: "the repository was changed by someone else at the same time",
    413: "a file is larger than the Hub accepts",
}


@dataclass(frozen=True)
class Target:
    """Where on the Hub a model is published."""

    name: str  # USER/NAME, or NAME alone in the user's own account
    private: bool = False
    revision: str | None = None  # branch, created if it does not exist
    tag: str | None = None  # None: named after the end of the run

    @classmethod
    def from_args(cls, args: TrainingArguments) -> "Target":
        return cls(
            args.hub_model_id or Path(args.output_dir or "").name, bool(args.hub_private_repo), args.hub_revision
        )

    def full_name(self, user: str) -> str:
        """Return USER/NAME for an account.

        Raises:
            UserError: the name is not valid on the Hub.
        """
        name = self.name if "/" in self.name else f"{user}/{self.name}"
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(f"not a valid repository name: {one_line(error)}") from None
        return name

    def command(self, folder: Path) -> str:
        """Return the command line that publishes ``folder`` there."""
        words = ["python", "publish.py", "--model_dir", str(folder), "--hub_model_id", self.name]
        words += ["--private", "true"] if self.private else []
        for name, value in (("--revision", self.revision), ("--tag", self.tag)):
            words += [name, value] if value else []
        return shlex.join(words)


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def explain(error: Exception) -> str:
    """Return in one line what an error of the client means and, if known, what to do."""
    cause = next((item for item in exception_chain(error) if isinstance(item, HTTPError)), None)
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        words = one_line(Exception(cause.server_message or cause.response.reason_phrase))
        wait = cause.response.headers.get("Retry-After")
        advice = f"wait {wait} s, as requested" if wait else ADVICE.get(status)
        return f"the Hub answered {status} ({words})" + (f": {advice}" if advice else "")
    if cause is not None:
        return f"the connection to the Hub failed ({one_line(cause)})"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token found: log in with `hf auth login`"
    if isinstance(error, json.JSONDecodeError):
        return "the Hub's answer could not be read"
    return one_line(error).rstrip(".")


def retry_delay(error: Exception, planned: float) -> float | None:
    """Return the seconds to wait before a retry; None if a retry would not help."""
    for item in exception_chain(error):
        if isinstance(item, HfHubHTTPError):
            asked = item.response.headers.get("Retry-After", "")
            if item.response.status_code not in RETRY_STATUS or (asked.isdigit() and int(asked) > MAX_RETRY_AFTER):
                return None
            return max(planned, int(asked)) if asked.isdigit() else planned
        if isinstance(item, (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)):
            return planned
    return None


def with_retries(call: Callable):
    """Return what ``call`` returns; retry if the Hub is busy or the connection is lost.

    The client itself retries uploads only. The call must be safe to repeat.
    """
    for planned in (*RETRY_DELAYS, None):
        try:
            return call()
        except Exception as error:  # the client's errors have no common base class
            wait = None if planned is None else retry_delay(error, planned)
            if wait is None:
                raise
            warn(f"{explain(error)}; retrying in {wait:g} s")
            time.sleep(wait)


@contextmanager
def log_upload_retries() -> Iterator[None]:
    """Log that the client waits to retry an upload, but not the signed URL."""
    verbosity = hub_logging.get_verbosity()
    hub_logging.get_logger("huggingface_hub.utils._http").addFilter(has_no_url)
    hub_logging.set_verbosity_warning()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)


def has_no_url(record: LogRecord) -> bool:
    return "thrown while requesting" not in record.getMessage()


def find_missing_permission(user: dict, repository: str) -> str | None:
    """Return why the token of ``user`` (the reply of whoami) cannot write to USER/NAME; None if it can."""
    owner, token = repository.split("/")[0], (user.get("auth") or {}).get("accessToken") or {}
    groups = {group.get("name"): group.get("roleInOrg") for group in user.get("orgs", [])}
    if owner != user["name"] and (owner not in groups or groups[owner] == "read"):
        return f"{user['name']} has no write access to {owner}"
    if token.get("role") == "read":
        return f"the token is read-only: {ADVICE[403]}"
    if token.get("role") == "fineGrained":
        scopes = (token.get("fineGrained") or {}).get("scoped", [])
        named = {
            scope.get("entity", {}).get("name") for scope in scopes if "repo.write" in scope.get("permissions", [])
        }
        if not named & {owner, repository}:
            return f"the token has no write access to {repository}: {ADVICE[403]}"
    return None


def open_repository(api: HfApi, target: Target) -> str:
    """Create the repository unless it exists, and return its full name.

    Raises:
        UserError: the name is invalid, the token has no write access, or a public repository exists
            where a private one is wanted.
    """
    target.full_name("user")  # an invalid name fails without a request
    user = with_retries(api.whoami)
    name = target.full_name(user["name"])
    if reason := find_missing_permission(user, name):
        raise UserError(reason)
    with_retries(lambda: api.create_repo(name, private=target.private or None, exist_ok=True))
    if target.private and not with_retries(lambda: api.model_info(name)).private:
        raise UserError(f"{name} already exists and is public: make it private in its settings, or choose another name")
    return name


def check_target(target: Target) -> None:
    """Check before training that the model can be published, and create the repository.

    Raises:
        UserError: publishing would fail.
    """
    try:
        open_repository(HfApi(), target)
    except Exception as error:
        raise UserError(
            f"cannot publish as {target.name}: {explain(error)}; fix this, or train with --push_to_hub false"
        ) from None


def check_model_folder(folder: Path) -> None:
    """Check that a folder contains a finished model, and that all of its weights can be read.

    Raises:
        UserError: a file is missing, or the weights are incomplete, not the model's, or not in safetensors format.
    """
    for name in (run_folder.CONFIG, run_folder.TOKENIZER, run_folder.SCORES, FINISHED):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not the folder of a finished run: it has no {name}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: has no weights in safetensors format, which publishing requires")
    load_checkpoint(folder)


def upload_contents(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """Return what to upload, by path in the repository; a README.md in the folder takes the place of the card."""
    files: dict[str, Path | bytes] = {
        path.name: path for pattern in UPLOADED_FILES for path in sorted(folder.glob(pattern))
    }
    readme = folder / "README.md"
    files["README.md"] = readme if readme.is_file() else str(make_card(folder, repository)).encode()
    files[SETTINGS] = as_yaml(published_settings(folder)).encode()
    return files


def push(folder: Path, target: Target) -> str:
    """Publish the model in ``folder`` and return its URL. Files that the Hub already has are not uploaded again.

    Raises:
        UserError: the folder contains no finished model, or publishing failed; with the command to repeat it.
    """
    check_model_folder(folder)
    repeat = f"The model is complete in {folder}; to retry: {target.command(folder)}"
    try:
        with log_upload_retries():
            return upload(HfApi(), folder, target)
    except KeyboardInterrupt:
        warn(f"interrupted, not published. {repeat}")
        sys.exit(130)
    except Exception as error:
        raise UserError(f"not published: {explain(error)}. {repeat}") from None


def upload(api: HfApi, folder: Path, target: Target) -> str:
    """Upload and tag the model in ``folder``, and return its URL."""
    name = open_repository(api, target)
    if branch := target.revision:
        with_retries(lambda: api.create_branch(name, branch=branch, exist_ok=True))
    files = upload_contents(folder, name)

    def commit():
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return api.create_commit(name, operations, commit_message="Publish the model", revision=target.revision)

    created = with_retries(commit)
    tag = target.tag or run_tag(folder)
    if tag:
        set_tag(api, name, tag, created.oid, requested=bool(target.tag))
    return f"{api.endpoint}/{name}" + (f"/tree/{target.revision}" if target.revision else "")


def run_tag(folder: Path) -> str | None:
    """Return a tag named after the time when the run finished; None if that was not recorded."""
    finished = load_json(folder / RUN).get("finished")
    return finished and "run-" + finished.replace(":", "").replace(" ", "-")


def set_tag(api: HfApi, name: str, tag: str, commit: str, requested: bool) -> None:
    """Tag a commit. A tag of another commit is never moved.

    Args:
        requested: the user chose the tag, so that an existing one is an error, not a warning.
    """
    try:
        with_retries(lambda: api.create_tag(name, tag=tag, revision=commit))
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        if with_retries(lambda: api.model_info(name, revision=tag)).sha == commit:
            return
        if requested:
            raise UserError(
                f"the files are uploaded, but the tag {tag} is on another commit: choose another --tag"
            ) from None
        warn(f"the tag {tag} is on an earlier upload of this run and was not moved; to tag this one, set --tag")

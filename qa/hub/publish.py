"""Sending a finished model to the Hub: checked before training, only files chosen by name, repeatable."""

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
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line

# What is sent, beside the card and the cleaned settings. Never optimizer states, logs, caches or pickles.
SENT = (
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
TRANSIENT = (408, 429, 500, 502, 503, 504)
WAITS = (1, 5, 20)  # seconds before each new try
LONGEST_WAIT = 120  # seconds that the Hub may ask for
ADVICE = {
    401: "log in with `hf auth login`",
    403: "use a token that may write there (https://huggingface.co/settings/tokens)",
    409: "someone else changed the repository at the same time",
    413: "a file is larger than the Hub takes",
}


@dataclass(frozen=True)
class Target:
    """Where on the Hub a model goes."""

    name: str  # USER/NAME, or NAME alone for one's own
    private: bool = False
    revision: str | None = None  # branch, made if there is none
    tag: str | None = None  # None: one of the run's own

    @classmethod
    def from_args(cls, args: TrainingArguments) -> "Target":
        return cls(args.hub_model_id or Path(args.output_dir).name, bool(args.hub_private_repo), args.hub_revision)

    def command(self, folder: Path) -> str:
        """The command line that publishes ``folder`` there."""
        words = ["python", "publish.py", "--model_dir", str(folder), "--hub_model_id", self.name]
        words += ["--private", "true"] if self.private else []
        for name, value in (("--revision", self.revision), ("--tag", self.tag)):
            words += [name, value] if value else []
        return shlex.join(words)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def explain(error: Exception) -> str:
    """One line that says what the client's error means, and what to do where we know it."""
    cause = next((item for item in chain(error) if isinstance(item, HTTPError)), None)
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        words = one_line(Exception(cause.server_message or cause.response.reason_phrase))
        wait = cause.response.headers.get("Retry-After")
        advice = f"wait {wait} s, as it asks" if wait else ADVICE.get(status)
        return f"the Hub answered {status} ({words})" + (f": {advice}" if advice else "")
    if cause is not None:
        return f"the connection to the Hub failed ({one_line(cause)})"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token was found: log in with `hf auth login`"
    if isinstance(error, json.JSONDecodeError):
        return "the Hub's answer could not be read"
    return one_line(error).rstrip(".")


def pause(error: Exception, planned: float) -> float | None:
    """Seconds after which to try again, None where that is of no use."""
    for item in chain(error):
        if isinstance(item, HfHubHTTPError):
            asked = item.response.headers.get("Retry-After", "")
            if item.response.status_code not in TRANSIENT or (asked.isdigit() and int(asked) > LONGEST_WAIT):
                return None
            return max(planned, int(asked)) if asked.isdigit() else planned
        if isinstance(item, (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)):
            return planned
    return None


def with_retries(call: Callable):
    """What ``call`` returns, tried anew where the Hub is busy or the connection breaks.

    The client itself does so for uploads only. The call must be one that can be repeated.
    """
    for planned in (*WAITS, None):
        try:
            return call()
        except Exception as error:  # the client's errors have no common ancestor
            wait = None if planned is None else pause(error, planned)
            if wait is None:
                raise
            warn(f"{explain(error)}; trying again in {wait:g} s")
            time.sleep(wait)


@contextmanager
def waiting_is_said() -> Iterator[None]:
    """Lets the client say that it waits to repeat an upload, but not the signed address it repeats."""
    quiet = hub_logging.get_verbosity()
    hub_logging.get_logger("huggingface_hub.utils._http").addFilter(names_no_address)
    hub_logging.set_verbosity_warning()
    try:
        yield
    finally:
        hub_logging.set_verbosity(quiet)


def names_no_address(record: LogRecord) -> bool:
    return "thrown while requesting" not in record.getMessage()


def may_write(user: dict, repository: str) -> str | None:
    """What stands against writing to USER/NAME with the token of ``user`` (as who-am-I describes it), if anything."""
    owner, token = repository.split("/")[0], (user.get("auth") or {}).get("accessToken") or {}
    groups = {group.get("name"): group.get("roleInOrg") for group in user.get("orgs", [])}
    if owner != user["name"] and (owner not in groups or groups[owner] == "read"):
        return f"{user['name']} may not write to {owner}"
    if token.get("role") == "read":
        return f"the token may only read: {ADVICE[403]}"
    if token.get("role") == "fineGrained":
        scopes = (token.get("fineGrained") or {}).get("scoped", [])
        named = {
            scope.get("entity", {}).get("name") for scope in scopes if "repo.write" in scope.get("permissions", [])
        }
        if not named & {owner, repository}:
            return f"the token may not write to {repository}: {ADVICE[403]}"
    return None


def open_repository(api: HfApi, target: Target) -> str:
    """Makes the repository if there is none and returns its full name; raises where it cannot be written."""
    try:
        validate_repo_id(target.name)
    except HFValidationError as error:
        raise UserError(f"not a name for a repository: {one_line(error)}") from None
    user = with_retries(api.whoami)
    name = target.name if "/" in target.name else f"{user['name']}/{target.name}"
    if reason := may_write(user, name):
        raise UserError(reason)
    with_retries(lambda: api.create_repo(name, private=target.private or None, exist_ok=True))
    if target.private and not with_retries(lambda: api.model_info(name)).private:
        raise UserError(f"{name} exists and is public: make it private in its settings, or choose another name")
    return name


def check_before(target: Target) -> None:
    """Raises UserError, before anything is trained, where publishing would fail at the end."""
    try:
        open_repository(HfApi(), target)
    except Exception as error:
        raise UserError(
            f"cannot publish as {target.name}: {explain(error)}; mend it, or train with --push_to_hub false"
        ) from None


def check_model_folder(folder: Path) -> None:
    """Raises UserError for a folder that does not hold a finished model."""
    for name in (run_folder.CONFIG, run_folder.TOKENIZER, run_folder.SCORES, FINISHED):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not the folder of a finished run: it has no {name}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: has no weights as safetensors, the only ones that are published")


def contents(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """What is sent, by its path in the repository. A README.md in the folder is somebody's own, and sent as it is."""
    files: dict[str, Path | bytes] = {path.name: path for pattern in SENT for path in sorted(folder.glob(pattern))}
    own = folder / "README.md"
    files["README.md"] = own if own.is_file() else str(make_card(folder, repository)).encode()
    files[SETTINGS] = as_yaml(published_settings(folder)).encode()
    return files


def push(folder: Path, target: Target) -> str:
    """Publishes the model in ``folder`` and returns its address. What the Hub has already is not sent again."""
    check_model_folder(folder)
    repeat = f"The model is complete in {folder}; to try again: {target.command(folder)}"
    try:
        with waiting_is_said():
            return send(HfApi(), folder, target)
    except KeyboardInterrupt:
        warn(f"interrupted, not published. {repeat}")
        sys.exit(130)
    except Exception as error:
        raise UserError(f"not published: {explain(error)}. {repeat}") from None


def send(api: HfApi, folder: Path, target: Target) -> str:
    name = open_repository(api, target)
    if target.revision:
        with_retries(lambda: api.create_branch(name, branch=target.revision, exist_ok=True))
    files = contents(folder, name)

    def commit():
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return api.create_commit(name, operations, commit_message="Publish the model", revision=target.revision)

    made = with_retries(commit)
    tag = target.tag or run_tag(folder)
    if tag:
        set_tag(api, name, tag, made.oid, asked=bool(target.tag))
    return f"{api.endpoint}/{name}" + (f"/tree/{target.revision}" if target.revision else "")


def run_tag(folder: Path) -> str | None:
    """A tag of this run's own, by the time when it finished."""
    finished = load_json(folder / RUN).get("finished")
    return finished and "run-" + finished.replace(":", "").replace(" ", "-")


def set_tag(api: HfApi, name: str, tag: str, commit: str, asked: bool) -> None:
    """Tags the commit. A tag that marks another one stays there: said where it is the run's own, else an error."""
    try:
        with_retries(lambda: api.create_tag(name, tag=tag, revision=commit))
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        if with_retries(lambda: api.model_info(name, revision=tag)).sha == commit:
            return
        if asked:
            raise UserError(
                f"the files are there, but the tag {tag} marks another commit: choose another --tag"
            ) from None
        warn(f"the tag {tag} marks an earlier upload of this run and stays there; give this one a --tag of its own")

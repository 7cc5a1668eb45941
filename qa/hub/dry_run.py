"""What publishing would send, and where to; nothing is sent."""

import textwrap
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from qa.hub.publish import Target, check_model_folder, explain, find_missing_permission, run_tag, upload_contents
from qa.runtime.console import table

TIMEOUT = 10  # seconds; whether the repository exists is not worth a longer wait
PLACEHOLDER = "USER"  # the account, where it is not known
WIDTH = 80 - 16  # columns of a value in the table


def describe_upload(folder: Path, target: Target) -> str:
    """Return the repository, the files with their sizes, and the card that ``push`` would upload.

    The Hub is only read, and needs neither a connection nor a login: what it does not tell is reported as unknown.

    Raises:
        UserError: the folder contains no finished model, or the name is not valid on the Hub.
    """
    check_model_folder(folder)
    target.full_name(PLACEHOLDER)  # an invalid name fails without a request
    api = HfApi()
    user, account = find_account(api, target)
    name = target.full_name(user or PLACEHOLDER)
    is_known = user is not None or "/" in target.name
    contents = upload_contents(folder, name)
    where = [
        ("repository", name),
        ("account", account),
        ("state", find_state(api if is_known else None, name, target.private)),
        ("branch", target.revision or "main"),
        ("tag", target.tag or run_tag(folder) or "none"),
    ]
    sizes = {path: len(item) if isinstance(item, bytes) else item.stat().st_size for path, item in contents.items()}
    files = [(path, format_size(size)) for path, size in sorted(sizes.items())]
    card = contents["README.md"]
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8", errors="replace")
    parts = [
        "Nothing is sent (--dry_run). Without it, this would be published:",
        table([row for label, value in where for row in wrapped(label, value)]),
        table([*files, (f"{len(files)} files", format_size(sum(sizes.values())))]),
        f"README.md:\n\n{text.strip()}",
    ]
    return "\n\n".join(parts)


def find_account(api: HfApi, target: Target) -> tuple[str | None, str]:
    """Return the user who is logged in, None if not known, and a text that also says what the token may not do."""
    try:
        user = api.whoami()
    except Exception as error:  # the client's errors have no common base class
        return None, f"not known: {explain(error)}"
    missing = find_missing_permission(user, target.full_name(user["name"]))
    return user["name"], user["name"] + (f"; publishing would fail: {missing}" if missing else "")


def find_state(api: HfApi | None, name: str, private: bool) -> str:
    """Return whether the repository exists and who can see it, as far as the Hub tells.

    Args:
        api: None if ``name`` is not in a known account, so that the Hub cannot be asked.
    """
    kind = "private" if private else "public"
    if api is None:
        return f"not known without the account. A new one would be {kind}"
    try:
        found = api.model_info(name, timeout=TIMEOUT)
    except GatedRepoError:
        return "exists, with restricted access"
    except RepositoryNotFoundError:
        return f"not found on the Hub; would be created, {kind}"
    except Exception as error:  # as above
        return f"not known: {explain(error)}. A new one would be {kind}"
    if private and not found.private:
        return "exists and is public; publishing would fail with --private"
    return f"exists, {'private' if found.private else 'public'}"


def wrapped(label: str, value: str) -> list[tuple[str, str]]:
    """Return the rows of one entry of a table, 80 columns wide."""
    first, *more = textwrap.wrap(value, WIDTH)
    return [(label, first), *(("", line) for line in more)]


def format_size(size: float) -> str:
    """Return a size in decimal units, as the Hub shows it."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

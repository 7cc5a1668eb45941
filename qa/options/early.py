"""Report mistakes in options, and paths that do not exist, before torch and transformers load, which takes seconds."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from qa.io.files import require_file
from qa.io.nearest import did_you_mean, nearest_path
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.help import HELP_FLAGS
from qa.options.parser import GivenOptions, UnknownOption, read_options
from qa.runtime.errors import UserError


def read_early(kinds: Iterable[type], argv: list[str], default_config: Path | None = None) -> GivenOptions | None:
    """Return the options as far as the table knows them; None if only the libraries do.

    That is so for ``--help_all``, and for a field of ``TrainingArguments`` that is newer than the table.

    Args:
        kinds: as for ``read_options``, with ``TrainingRows`` in place of ``TrainingOptions``.

    Raises:
        UserError: as ``read_options``.
    """
    if HELP_FLAGS & set(argv):
        return None
    try:
        return read_options(kinds, argv, default_config)
    except UnknownOption as error:
        if is_installed_field(error.name):
            return None
        raise


def is_installed_field(name: str) -> bool:
    """Return whether the installed ``TrainingArguments`` has a field; read from its source, as importing is slow."""
    package = find_spec("transformers")
    if package is None or package.origin is None:
        return False
    source = Path(package.origin).with_name("training_args.py")
    return source.is_file() and f"\n    {name}: " in source.read_text(encoding="utf-8")


def check_sources(model_args: ModelArguments, data_args: DataArguments, needs_model: bool = True) -> None:
    """Check the paths of the model and of the data, unless the demo is yet to be written there.

    Args:
        needs_model: whether more of a model is used than its tokenizer.

    Raises:
        UserError: one does not exist.
    """
    if data_args.demo_dir:
        return
    model = model_args.config_name or model_args.model_name_or_path
    names = [name for name in (model_args.tokenizer_name or model, model if needs_model else None) if name]
    for name in names:
        check_model_path(name)
    if any(nearest_path(name) for name in names if not Path(name).expanduser().exists()):
        return  # a mistyped folder, or a name on the Hub, which has to be asked before data are looked for
    errors = []
    for path in (*(data_args.train_file or []), data_args.validation_file):
        try:
            if path and not is_link(path) and not Path(path).expanduser().exists():
                require_file(str(Path(path).expanduser()))
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("; ".join(dict.fromkeys(errors)))


def is_link(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def check_model_path(name: str) -> None:
    """Raise UserError for the name of a file, or a path where there is no folder; other names are those on the Hub."""
    path = Path(name).expanduser()
    if path.is_file():
        raise UserError(f"{name} is a file: give the folder of the model")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"{name}: no such folder{did_you_mean(name)}")

"""One YAML file and command-line overrides, read into typed dataclasses.

The YAML file is rendered into command-line arguments and parsed together with the real ones, once, so
that ``2e-5`` is a number, ``no`` a word and ``fp16: maybe`` an error wherever they are written.
"""

import argparse
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Container, Iterable
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments

from qa.options.arguments import LISTS, RENAMED, TrainingOptions, check_training
from qa.runtime.errors import UserError, one_line

# Groups of options that answer the same question. Given on the command line, one side replaces the
# other side's value in the YAML file; given on one level, both together are an error.
ALTERNATIVES = (
    (("dataset_name",), ("train_file", "validation_file")),
    (("validation_file",), ("validation_split_percentage",)),
    (("model_name_or_path",), ("config_name",)),
)

# Of the settings saved with a model, those that say where the model itself came from and went to, and
# those that hold for its data only, when other data are named.
OF_THE_RUN = ("model_name_or_path", "config_name", "tokenizer_name", "model_revision", "cache_dir", "output_dir")
OF_THE_DATA = ("max_train_samples", "max_eval_samples", "version_2_with_negative", "dataset_config_name")
OF_THE_DATA += ("max_train_samples_per_source", "columns")
# Lists with a value for each source, which say nothing of other sources.
BY_SOURCE = ("dataset_config_name", "max_train_samples_per_source")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Every option once, with the type of its value and its default; the description as it is written."""

    def _format_action_invocation(self, action):
        kind = getattr(action.type, "__name__", "value")
        takes = "" if action.nargs == 0 else f" {'true|false' if kind == 'string_to_bool' else kind}"
        if action.choices and action.nargs != 0:
            takes = f" {{{','.join(str(choice) for choice in action.choices)}}}"
        return action.option_strings[0] + takes


class ArgumentParser(HfArgumentParser):
    """HfArgumentParser without abbreviations, whose errors are one line and not a page of usage."""

    def __init__(self, dataclass_types: Iterable[type], **kwargs):
        kwargs |= {"allow_abbrev": False, "formatter_class": HelpFormatter, "usage": "%(prog)s [--option value ...]"}
        super().__init__(dataclass_types, **kwargs)
        self.add_argument("--config", type=str, help="YAML file with any of these options")

    def error(self, message: str):
        raise UserError(re.sub(r"^argument --(\w+)(/\S+)?: ", r"\1: ", message))

    @property
    def names(self) -> set[str]:
        return {action.dest for action in self._actions} - {"help", "config"}

    def unknown(self, name: str) -> str:
        """What to say of an option that does not exist."""
        written, name = name, name.replace("-", "_")
        if written != name in self.names:
            return f"unknown option {written}: write {name}"
        if name in RENAMED:
            return f"{name} {RENAMED[name]}"
        nearest = difflib.get_close_matches(name, sorted(self.names), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists the options"
        return f"unknown option {name}: {hint}"


def read_config(path: str, parser: ArgumentParser, skip: Container[str] = ()) -> dict[str, list[str]]:
    """The options that a YAML file sets, each as command-line arguments. ``null`` leaves the default.

    Args:
        skip: names to pass over; those that the command does not know are an error all the same.
    """
    try:
        root = yaml.compose(Path(path).read_bytes(), Loader=yaml.BaseLoader)  # UTF-8, or UTF-16 with its mark
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (--config names a YAML file such as config.yaml)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error.reason}): save it as such") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise UserError(f"{place}: not YAML: {getattr(error, 'problem', None) or one_line(error)}") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must hold lines of the form `option: value`")

    settings: dict[str, list[str]] = {}
    for key_node, value_node in root.value:
        place = f"{path}, line {key_node.start_mark.line + 1}"
        name = key_node.value
        if not isinstance(name, str):
            raise UserError(f"{place}: an option's name must be a word")
        if name in skip:
            continue
        if name not in parser.names or name in RENAMED:
            raise UserError(f"{place}: {parser.unknown(name)}")
        if name in settings:
            raise UserError(f"{place}: {name} is set twice")
        try:
            settings[name] = render(name, value_node)
            if parser.parse_known_args(settings[name])[1]:
                raise UserError(f"{name} takes one value, not a list")
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"{place}: the value of {name} cannot be read") from None
    return {name: arguments for name, arguments in settings.items() if arguments}


def render(name: str, node: yaml.Node) -> list[str]:
    """A YAML value as command-line arguments; nothing for ``null``."""
    if isinstance(node, yaml.ScalarNode):
        plain_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
        return [] if plain_null else [f"--{name}={node.value}"]
    if isinstance(node, yaml.MappingNode):
        return [f"--{name}={json.dumps(yaml.safe_load(yaml.serialize(node)))}"]
    if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        raise UserError(f"{name} must be a list of single values")
    return [f"--{name}", *(item.value for item in node.value)] if node.value else []


def given(argv: list[str]) -> set[str]:
    """Names of the options on a command line."""
    return {item[2:].split("=")[0].replace("-", "_") for item in argv if item.startswith("--")}


def resolve_alternatives(config: dict[str, list[str]], argv: list[str]) -> None:
    """Takes from ``config`` what the command line replaces; says so where one level gives both sides."""
    for left, right in ALTERNATIVES:
        for level in (given(argv), set(config)):
            both = [next((name for name in side if name in level), None) for side in (left, right)]
            if all(both):
                raise UserError(f"{both[0]} and {both[1]} exclude each other: give one of them")
        for side, other in ((left, right), (right, left)):
            if given(argv) & set(side):
                for name in other:
                    config.pop(name, None)
    if given(argv) & {"dataset_name", "train_file"}:
        for name in BY_SOURCE:
            config.pop(name, None)


def config_path(argv: list[str]) -> str | None:
    """The value of ``--config``, before the rest of the command line is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        return parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError:
        raise UserError("config: expected one argument") from None


def parse_arguments(
    dataclass_types: Iterable[type],
    argv: list[str] | None = None,
    default_config: Path | str | None = None,
    saved: str | None = None,
    description: str | None = None,
) -> tuple:
    """Reads a YAML file and the command line, which overrides it, into the dataclasses.

    The file is ``--config`` if given, else ``saved``, the settings beside a model, of which what belongs to
    the run that wrote them or to other commands is passed over, else ``default_config``.

    Raises:
        UserError: an unknown name, a value of the wrong type, a file that is not YAML.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = ArgumentParser(dataclass_types, description=description)
    parser.set_defaults(config=default_config)
    path, skip = config_path(argv) or saved or default_config, set()
    if path == saved:
        others = {item.name for item in dataclasses.fields(TrainingOptions)} - parser.names
        skip = others | set(OF_THE_RUN)
        if given(argv) & {"validation_file", "dataset_name"}:
            skip |= set(OF_THE_DATA)
    for name in sorted(given(argv)):
        if name in RENAMED:
            raise UserError(parser.unknown(name))
    for name in LISTS:
        if sum(given([item]) == {name} for item in argv) > 1:
            raise UserError(f"{name} is given twice: write --{name} and then all its values")
    config = read_config(str(path), parser, skip) if path and not {"-h", "--help"} & set(argv) else {}
    resolve_alternatives(config, argv)
    try:
        *parsed, _, rest = parser.parse_args_into_dataclasses(
            [item for arguments in config.values() for item in arguments] + argv,
            return_remaining_strings=True,
            look_for_args_file=False,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(one_line(error)) from None
    if rest:
        known = rest[0].startswith("--")
        hint = f": did you mean --config {rest[0]}?" if rest[0].endswith((".yaml", ".yml")) else ""
        raise UserError(parser.unknown(rest[0][2:].split("=")[0]) if known else f"unexpected {rest[0]!r}{hint}")
    for arguments in parsed:
        if isinstance(arguments, TrainingArguments):
            check_training(arguments)
    return tuple(parsed)

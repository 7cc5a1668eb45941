"""Read one YAML file and the command line into typed dataclasses.

Each value of the file is rendered into command-line arguments and parsed like those, so that ``2e-5`` is a number,
``no`` a word and ``fp16: maybe`` an error wherever they are written.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Container, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml

from qa.options.config_file import load_mapping, render
from qa.options.help import HELP_FLAGS, print_all_options
from qa.options.levels import PRECISIONS, check_level, merge, names_data
from qa.options.option import value_type
from qa.options.other_names import explain_name
from qa.options.table import TABLE, TRAINING, find_option
from qa.options.training_fields import OurTrainingOptions
from qa.options.values import boolean, check_json, value_parser
from qa.runtime.errors import UserError, one_line

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # hyphens, and what word processors make of them


class UnknownOption(UserError):
    """An option that the command does not have."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class StoreOnce(argparse.Action):
    """Store the values of a list option; a second occurrence is an error, as it would replace the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        if hasattr(namespace, self.dest):
            parser.error(f"{self.dest} is given twice: write --{self.dest} and then all its values")
        setattr(namespace, self.dest, values)


class ArgumentParser(argparse.ArgumentParser):
    """Parser for the fields of dataclasses, by the rules of ``HfArgumentParser``.

    Its namespace contains only the options that were given. Errors are one line, raised as UserError.
    """

    def __init__(self, kinds: Iterable[type]):
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self.refused = set()  # inherited fields, such as hub_token
        for kind in kinds:
            hints = get_type_hints(kind)
            for item in dataclasses.fields(kind):
                if item.init:
                    if "option" not in item.metadata and find_option(item.name).instead:
                        self.refused.add(item.name)
                    self.add_field(item, hints[item.name])
        self.names = {action.dest for action in self._actions}
        self.add_argument("--config")

    def add_field(self, item: dataclasses.Field, hint) -> None:
        """Add one field. Its metadata may hold arguments of ``add_argument``, as in ``TrainingArguments``."""
        known = {name: value for name, value in item.metadata.items() if name in ("nargs", "const", "choices")}
        kind = value_type(hint)
        if get_origin(kind) is list:
            known |= {"type": value_parser(item.name, get_args(kind)[0]), "nargs": "+", "action": StoreOnce}
        elif get_origin(kind) is Literal:
            known["choices"] = get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, Enum):
            known["choices"] = [each.value for each in kind]
        elif kind is bool:
            known |= {"type": boolean, "nargs": "?", "const": True}
        else:
            known["type"] = value_parser(item.name, kind)
        self.add_argument(*spellings(item.name), **known)
        if kind is bool and item.default is True:
            self.add_argument(
                *spellings(f"no_{item.name}"), dest=item.name, action="store_false", default=argparse.SUPPRESS
            )

    def error(self, message: str):
        message = re.sub(r"^argument --(\w+)(/\S+)?: ", r"\1: ", message)
        if choice := re.fullmatch(r"(.*invalid choice: '(.*)') \(choose from (.*)\)", message):
            nearest = difflib.get_close_matches(choice[2], re.findall(r"[^', ]+", choice[3]), n=1)
            message = f"{choice[1]}: did you mean {nearest[0]}?" if nearest else message
        raise UserError(message)

    def unknown(self, name: str) -> str:
        """Return the error message for an unknown option."""
        written, name = name, plain_name(name)
        if written != name in self.names:
            return f"unknown option {written}: write {name}"
        if instead := find_option(name).instead:
            return f"{name} {instead}"
        if explanation := explain_name(name, self.names | {"config"}):
            return f"{name} {explanation}"
        allowed = sorted(each for each in self.names - self.refused if not find_option(each).refused)
        starting = [each for each in allowed if each.startswith(name)]
        nearest = difflib.get_close_matches(name, allowed, n=1) or (starting if len(starting) == 1 else [])
        hint = f"did you mean {nearest[0]}?" if nearest else "--help_all lists the options"
        return f"unknown option {name}: {hint}"

    def parse_one(self, name: str, arguments: list[str]) -> dict[str, Any]:
        """Return the typed value of one option, by name. Raises UserError."""
        values, rest = self.parse_known_args(arguments)
        if rest:
            raise UserError(f"{name} takes one value, not a list")
        return vars(values)

    def parse_all(self, argv: list[str]) -> dict[str, Any]:
        """Return the typed values on a command line, by name. Raises UserError, also for unknown options."""
        namespace, rest = self.parse_known_args(argv)
        values = vars(namespace)
        for name in values:
            if name in self.refused:
                raise UserError(self.unknown(name))
        if rest:
            raise UnknownOption(self.unexpected(rest[0]), plain_name(rest[0]))
        return values

    def unexpected(self, word: str) -> str:
        """Return the error message for a word that is neither an option nor a value of one."""
        name, equals, _ = word.lstrip(DASHES).partition("=")
        if word.startswith("--"):
            return self.unknown(name)
        if word.startswith(tuple(DASHES)) and name.replace("-", "_") in self.names:
            return f"unexpected {word.partition('=')[0]!r}: write --{name}, with two hyphens"
        if word.startswith(tuple(DASHES)):
            return self.unknown(name)
        if equals and name in self.names:
            return f"unexpected {name + '=...'!r}: write --{name}=..."
        hint = f": did you mean --config {word}?" if word.endswith((".yaml", ".yml", ".json")) else ""
        return f"unexpected {word!r}{hint}"


def plain_name(word: str) -> str:
    """Return the name of an option as in the table, from a word of a command line."""
    return word.lstrip(DASHES).partition("=")[0].replace("-", "_")


def spellings(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


@dataclasses.dataclass(frozen=True)
class GivenOptions:
    """The options that were set explicitly, as typed values by name.

    Attributes:
        command_line: set on the command line; they override ``config``.
        config: set in a YAML file.
        named: whether ``--config`` named that file, which then replaces the settings of a model, too.
    """

    parser: ArgumentParser
    kinds: tuple[type, ...]
    command_line: dict[str, Any]
    config: dict[str, Any]
    named: bool

    def value(self, name: str) -> Any:
        """Return what an option was set to; None if it was not."""
        return merge(self.config, self.command_line).get(name)

    def over(self, saved: str | Path | None, **defaults: Any) -> "GivenOptions":
        """Return these options, falling back to the settings saved with a model, and then to defaults of the command.

        Settings that belong to the run that wrote them, to other data or to other commands are skipped; if ``--config``
        names a file, all are.
        """
        if saved is None or self.named:
            return dataclasses.replace(self, config=defaults | self.config)
        skip = {row.name for row in TRAINING} - self.parser.names
        skip |= {row.name for row in TABLE.values() if row.belongs_to == "run"}
        if names_data("validation", self.command_line):
            skip |= {row.name for row in TABLE.values() if row.belongs_to in ("data", "sources")}
        config = read_config(str(saved), self.parser, skip)
        if (precision := config.get("precision")) in PRECISIONS:  # of the device that trained the model
            del config["precision"]
            config |= {precision: True} if precision in self.parser.names else {}
        return dataclasses.replace(self, config=defaults | config)

    def build(self, *kinds: type) -> tuple:
        """Return the dataclasses, or only those of ``kinds``. Raises UserError for invalid values."""
        values, built = merge(self.config, self.command_line), []
        for name, value in values.items():
            check_json(name, value)
        try:
            for kind in kinds or self.kinds:
                names = {item.name for item in dataclasses.fields(kind) if item.init}
                built.append(kind(**{name: value for name, value in values.items() if name in names}))
        except UserError:
            raise
        except OSError as error:  # a file that an option names, such as that of accelerator_config
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(one_line(error)) from None
        for arguments in built:
            if isinstance(arguments, OurTrainingOptions):
                from qa.options.training_arguments import TrainingOptions, check_training

                check_training(cast(TrainingOptions, arguments))
        return tuple(built)


def read_options(
    kinds: Iterable[type],
    argv: list[str] | None = None,
    default_config: Path | str | None = None,
    description: str | None = None,
) -> GivenOptions:
    """Return what the command line, and the file of ``--config`` or else ``default_config``, set for some dataclasses.

    Raises:
        UserError: an unknown name, a value of the wrong type, a file that is not YAML.
    """
    kinds, argv = tuple(kinds), sys.argv[1:] if argv is None else list(argv)
    if HELP_FLAGS & set(argv):
        print_all_options(kinds, description, default_config)
        sys.exit()
    parser = ArgumentParser(kinds)
    command_line = parser.parse_all(argv)
    named = command_line.pop("config", None)
    check_level(command_line)
    path = named or default_config
    config = read_config(str(path), parser) if path else {}
    return GivenOptions(parser, kinds, command_line, config, bool(named))


def parse_arguments(
    kinds: Iterable[type],
    argv: list[str] | None = None,
    default_config: Path | str | None = None,
    saved: str | Path | None = None,
    description: str | None = None,
) -> tuple:
    """Return the dataclasses that the command line and a YAML file, or the settings saved with a model, set.

    The arguments, and what is raised, are those of ``read_options`` and ``GivenOptions.over``.
    """
    return read_options(kinds, argv, default_config, description).over(saved).build()


def read_config(path: str, parser: ArgumentParser, skip: Container[str] = ()) -> dict[str, Any]:
    """Return the typed values that a YAML file sets, by name. ``null`` leaves the default.

    Args:
        skip: names to skip; others that the parser does not know are an error.

    Raises:
        UserError: an unknown name, a value of the wrong type, options that contradict each other.
    """
    values: dict[str, Any] = {}
    seen = set()
    for key_node, value_node in load_mapping(path):
        place = f"{path}, line {key_node.start_mark.line + 1}"
        name = key_node.value
        if not isinstance(name, str):
            raise UserError(f"{place}: an option's name must be a word")
        if name in skip:
            continue
        if name not in parser.names or name in parser.refused:
            raise UnknownOption(f"{place}: {parser.unknown(name)}", name)
        if name in seen:
            raise UserError(f"{place}: {name} is set twice")
        seen.add(name)
        try:
            values |= parser.parse_one(name, render(name, value_node))
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"{place}: the value of {name} cannot be read") from None
    try:
        check_level(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values

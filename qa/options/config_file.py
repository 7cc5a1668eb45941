"""YAML files with options: ``option: value`` on each line, and errors that name file and line."""

import json
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qa.options.table import find_option
from qa.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from qa.options.parser import ArgumentParser


def load_mapping(path: str) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the names and values of a YAML file as nodes, whose values are still text. Raises UserError."""
    try:
        root = yaml.compose(Path(path).read_bytes(), Loader=yaml.BaseLoader)  # UTF-8, or UTF-16 with a BOM
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (--config names a YAML file such as config.yaml)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error.reason}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise UserError(f"{place}: not YAML: {getattr(error, 'problem', None) or one_line(error)}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must hold lines of the form `option: value`")
    return root.value


def read_config(path: str, parser: "ArgumentParser", skip: Container[str] = ()) -> dict[str, Any]:
    """Return the typed values that a YAML file sets, by name. ``null`` leaves the default.

    Args:
        skip: names to skip; others that the parser does not know are an error.
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
        if name not in parser.names or find_option(name).instead:
            raise UserError(f"{place}: {parser.unknown(name)}")
        if name in seen:
            raise UserError(f"{place}: {name} is set twice")
        seen.add(name)
        try:
            values |= parser.parse_one(name, render(name, value_node))
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"{place}: the value of {name} cannot be read") from None
    return values


def render(name: str, node: yaml.Node) -> list[str]:
    """Return a YAML value as command-line arguments; none for ``null``."""
    if isinstance(node, yaml.ScalarNode):
        plain_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
        return [] if plain_null else [f"--{name}={node.value}"]
    if isinstance(node, yaml.MappingNode):
        return [f"--{name}={json.dumps(yaml.safe_load(yaml.serialize(node)))}"]
    if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        raise UserError(f"{name} must be a list of single values")
    return [f"--{name}", *(item.value for item in node.value)] if node.value else []

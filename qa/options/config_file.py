"""YAML files with options: ``option: value`` on each line, and errors that name file and line."""

import json
from pathlib import Path

import yaml

from qa.io.nearest import did_you_mean
from qa.runtime.errors import UserError, one_line


def load_mapping(path: str) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the names and values of a YAML file as nodes, whose values are still text. Raises UserError."""
    if Path(path).is_fifo():
        raise UserError(f"{path} is a pipe, which can be read only once: --config needs a file")
    try:
        content = Path(path).read_bytes()
        if path.endswith(".json"):
            content = content.replace(b"\t", b" ")  # YAML includes JSON but for its tabs
        root = yaml.compose(content, Loader=yaml.BaseLoader)  # UTF-8, or UTF-16 with a BOM
    except FileNotFoundError:
        hint = did_you_mean(path) or " (--config names a YAML file such as config.yaml)"
        raise UserError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        inside = next(Path(path).glob("settings.yaml"), None)
        hint = f": did you mean {inside}?" if inside else ": --config names a YAML file"
        raise UserError(f"{path} is a folder{hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error.reason}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        if "'\\t'" in str(getattr(error, "problem", "")):
            raise UserError(f"{place}: has a tab where YAML allows only spaces: replace it") from None
        raise UserError(f"{place}: not YAML: {getattr(error, 'problem', None) or one_line(error)}") from None
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):  # nothing but ---
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must hold lines of the form `option: value`")
    return root.value


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

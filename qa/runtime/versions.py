"""The versions that a result depends on: this project's and those of the libraries that compute it."""

import importlib.metadata

VERSION = "1.0.0"  # of this project; pyproject.toml reads it here, so that it is also known where nothing is installed


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {name: importlib.metadata.version(name) for name in names}

"""The package that `pip install .` installs, used from another folder."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from qa.runtime.versions import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built offline with setuptools, a dependency of torch."""
    source, output = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("qa", "tests/helpers", "docs", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(output)], cwd=source, capture_output=True, check=True)
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
    ours = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "qa").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert wheel.name.startswith(f"albert_squad_qa-{VERSION}-")
    assert names == ours and {"qa/py.typed", "qa/evaluation/report.html"} <= names


def test_the_installed_package_works_from_another_folder(site, tmp_path):
    code = "import qa; from qa import QuestionAnswerer, pipeline; print(qa.__file__); print(pipeline.__module__)"
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    file, module = done.stdout.splitlines()
    assert Path(file).is_relative_to(site) and module == "qa.inference.pipeline"


def test_each_dependency_is_listed_once():
    """All dependencies are in pyproject.toml; the requirements files refer to it."""
    extras = PROJECT["project"]["optional-dependencies"]
    names = [line.split(">")[0].lower() for line in sum(extras.values(), PROJECT["project"]["dependencies"])]
    assert len(names) == len(set(names))
    assert (REPOSITORY / "requirements.txt").read_text() == "-e .[train]\n"
    assert (REPOSITORY / "requirements-dev.txt").read_text() == "-e .[train,dev]\n"

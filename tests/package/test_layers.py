"""Rules for the package's layers: allowed imports, modules that need no torch, maximum lengths."""

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "preprocess", "evaluate_qa", "ask", "publish")
LAYERS = "runtime io options data model inference evaluation hub training commands".split()  # lowest first
MODULES = sorted((REPOSITORY / "qa").rglob("*.py")) + [REPOSITORY / f"{name}.py" for name in COMMANDS]

MODULE_LINES, FUNCTION_LINES = 300, 50
WITHOUT_TORCH = ("qa.options", "qa.data", "qa.inference.spans", "qa.inference.decoding")
RELATIVE = {"qa.evaluation.squad_metric"}  # evaluate.load copies this file, with what it imports relatively
BUILT_ON_TORCH = {"qa.options.training_arguments"}  # imported only where training options are needed


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every import in a file, including those in functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == (name_of(path) in RELATIVE), f"{path}:{node.lineno}: relative import"
            module = f"qa.evaluation.{node.module}" if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards(path):
    ours = name_of(path).split(".")
    for name in imported(path):
        root, *rest = name.split(".")
        if ours[0] == "qa":
            assert root not in COMMANDS, f"the package imports the command {root}"
        if root == "qa" and len(ours) > 1:
            assert rest and rest[0] in LAYERS, f"imports {name}, which is in no layer"
            assert LAYERS.index(rest[0]) <= LAYERS.index(ours[1]), f"imports {name}, which is above {ours[1]}"


def test_no_modules_import_each_other():
    names = {name_of(path) for path in MODULES}
    imports = {
        name_of(path): {each for name in imported(path) for each in (name, name.rpartition(".")[0])} & names
        for path in MODULES
    }
    list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError


def test_every_folder_is_a_layer():
    assert {path.parent.name for path in (REPOSITORY / "qa").glob("*/*.py")} == set(LAYERS)


def test_modules_are_short():
    long = {name_of(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > MODULE_LINES}
    assert long == set()


def test_functions_are_short():
    long = {
        f"{name_of(path)}.{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == set()


def run_python(code: str, *argv: str) -> str:
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_modules_for_backends_without_torch_do_not_import_it():
    names = [name for name in map(name_of, MODULES) if name.startswith(WITHOUT_TORCH)]
    code = """
import importlib, json, sys
sys.modules |= {"torch": None, "transformers": None}  # as if not installed
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        failed.append(name)
print(json.dumps(failed))
"""
    assert set(json.loads(run_python(code, *names))) == BUILT_ON_TORCH


def test_the_package_loads_its_names_on_first_use():
    code = """
import sys, time
start = time.perf_counter()
import qa
seconds = time.perf_counter() - start
assert seconds < 0.2, seconds
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()
assert {"QuestionAnswerer", "pipeline"} <= set(dir(qa))
from qa import QuestionAnswerer, pipeline
import ask
assert (ask.QuestionAnswerer, ask.pipeline) == (QuestionAnswerer, pipeline)
"""
    run_python(code)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_error_without_torch_says_what_to_install(missing):
    code = f"""
import sys
sys.modules["{missing}"] = None
import qa
try:
    qa.pipeline
except ModuleNotFoundError as error:
    print(error)
"""
    needs = f"qa.pipeline needs {missing}: pip install 'albert-squad-qa[train]'\n"
    assert run_python(code) == needs


def test_an_unknown_name_is_an_attribute_error():
    import qa

    with pytest.raises(AttributeError, match="module 'qa' has no attribute 'answer'"):
        _ = qa.answer

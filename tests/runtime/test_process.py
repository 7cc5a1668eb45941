"""Process-wide settings: commands change them, ``import qa`` and ``QuestionAnswerer`` do not."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AlbertConfig, AlbertForQuestionAnswering

from qa.options.arguments import REPOSITORY
from qa.runtime.device_settings import keep_freed_memory

# A program that first imports all libraries that qa imports, so that later changes are caused by qa. It prints its
# state at the start, after importing all of qa, after asking a question, and after a command has configured it.
PROGRAM = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings

def state():
    import datasets, torch, transformers
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface
    loggers = {name: log.level for name, log in logging.root.manager.loggerDict.items() if hasattr(log, "level")}
    dynamo = torch._dynamo.config.get_config_copy()
    return {
        "log levels": {name: level for name, level in loggers.items() if not name.startswith("qa")},
        "progress bars": [transformers.utils.logging._tqdm_active, datasets.are_progress_bars_disabled(),
                          are_progress_bars_disabled()],
        "environment": dict(os.environ),
        "torch": [torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled(),
                  torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.matmul.allow_tf32,
                  torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.get_num_threads(),
                  str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.initial_seed()],
        "dynamo": {name: repr(value) for name, value in dynamo.items()},
        "attention": sorted(AttentionInterface._global_mapping),
        "masks": {name: f"{f.__module__}.{f.__name__}" for name, f in AttentionMaskInterface._global_mapping.items()},
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "warnings": [repr(each) for each in warnings.filters],
        "output": [sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
    }

def show():
    print("STATE " + json.dumps(state()))

given = json.load(sys.stdin)
for statement in given["imports"]:
    exec(statement, {})
import torch._dynamo
import datasets, torch, transformers
show()
import qa
for module in pkgutil.walk_packages(qa.__path__, "qa."):
    importlib.import_module(module.name)
show()
from qa.inference.answerer import QuestionAnswerer
answerer = QuestionAnswerer.from_pretrained(given["model"])
answerer(question="Where was Mira born?", context="Mira was born in Sollen in 1931.")
show()
from qa.runtime.process import configure_process
configure_process()
show()
os.environ |= {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
configure_process()
show()
"""
PARTS = "log levels", "progress bars", "environment", "torch", "dynamo", "attention", "masks", "signals", "warnings"


def library_imports() -> list[str]:
    """Return every statement at the top level of a module of qa that imports something else."""
    statements: set[str] = set()
    for path in Path(REPOSITORY, "qa").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and not ast.unparse(node).startswith(
                ("from qa", "from .")
            ):
                statements.add(ast.unparse(node))
    return sorted(statement for statement in statements if "__future__" not in statement)


def changed(before: dict, after: dict) -> dict:
    """Return the differences of each part, for the failure message."""
    return {part: (before[part], after[part]) for part in before if before[part] != after[part]}


@pytest.fixture(scope="module")
def states(tiny_model, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("asked") / "model"
    shutil.copytree(tiny_model, folder)
    AlbertForQuestionAnswering(AlbertConfig.from_pretrained(tiny_model)).save_pretrained(folder)
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps({"imports": library_imports(), "model": str(folder)}),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("STATE ")]


def test_importing_the_package_changes_nothing_in_the_process(states):
    assert set(PARTS) <= states[0].keys() and "torch" in states[0]["log levels"]
    assert changed(states[0], states[1]) == {}


def test_question_answerer_changes_nothing_in_the_process(states):
    difference = changed(states[1], states[2])
    before, after = difference.pop("log levels", ({}, {}))
    assert before.items() <= after.items(), "loggers may be added, no level is changed"
    known, more = difference.pop("attention")
    assert set(more) - set(known) == {"qa_sdpa"} and set(known) <= set(more), "our own is added under its own name"
    known, more = difference.pop("masks")
    assert more.keys() - known.keys() == {"qa_sdpa"} and known.items() <= more.items()
    assert difference == {}


def test_a_command_configures_its_process(states):
    assert changed(states[2], states[3]).keys() == {"log levels", "progress bars", "torch"}
    difference = changed(states[3], states[4])
    assert difference.keys() == {"environment"}
    assert difference["environment"][1]["ACCELERATE_USE_CPU"] == "true"


def test_text_that_the_output_cannot_encode_does_not_end_a_command(tiny_model, tiny_data, tmp_path):
    output = ["--output_dir", str(tmp_path / "Größe-日本"), "--cache_dir", str(tmp_path / "cache")]
    lengths = ["--max_seq_length", "48", "--doc_stride", "8", "--max_query_length", "24"]
    data = ["--train_file", str(tiny_data / "train.json"), "--tokenizer_name", str(tiny_model)]
    done = subprocess.run(
        [sys.executable, "preprocess.py", *data, *output, *lengths],
        capture_output=True,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Größe-\\u65e5\\u672c" in done.stdout.decode("cp1252")


FAULTS = """
import resource
import torch
from qa.runtime.device_settings import keep_freed_memory
keep_freed_memory()
for step in range(40):
    if step == 30:  # what glibc keeps by itself has settled
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers = [torch.ones(5_000_000) for _ in range(10)]  # 190 MiB, of which glibc keeps 64 by itself, or all by chance
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_kept_for_the_next_layer():
    """Else the system clears its pages again each time: they are counted. A user's own settings stay."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(**more) -> int:
        command = [sys.executable, "-c", FAULTS]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment | more, capture_output=True, check=True)
        return int(done.stdout)

    assert 4 * faults() + 40 < faults(MALLOC_TRIM_THRESHOLD_="1")


def test_the_allocator_is_set_where_it_is_glibcs_and_the_user_has_not(monkeypatch):
    given: list = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=lambda *setting: given.append(setting)))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("sys.platform", "darwin")
    keep_freed_memory()
    assert given == []
    monkeypatch.setattr("sys.platform", "linux")
    keep_freed_memory()
    assert given == [(-1, 2**31 - 1), (-3, 32 * 2**20)], "M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    keep_freed_memory()
    assert len(given) == 2

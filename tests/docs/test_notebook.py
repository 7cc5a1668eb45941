"""The notebook for Colab and Kaggle: it is stored without outputs, and its cells train, evaluate, ask and publish."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.documents import README, REPOSITORY, links
from helpers.hub_server import WRITE, serve

from qa.options.table import TABLE

NOTEBOOK = REPOSITORY / "docs/colab.ipynb"
CONTEXT = 'Pordana lies on the river "Welu". Mirel Tasko was a baker by trade.'


def read_notebook() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_the_notebook_is_valid_and_has_no_outputs():
    notebook = read_notebook()
    cells = notebook["cells"]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
    nbformat.validate(notebook)


def test_the_notebook_is_linked_and_holds_no_token():
    for document, path in ((README, "docs/colab.ipynb"), (REPOSITORY / "docs/installation.md", "colab.ipynb")):
        assert (path, "") in list(links(document)), document
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "notebook_login()" in text and "hf_" not in text and "--token" not in text


def test_the_commands_of_the_notebook_have_these_options():
    source = "\n".join("".join(cell["source"]) for cell in read_notebook()["cells"])
    commands = re.findall(r"!python (\w+\.py) (.*)", source)
    assert {script for script, _ in commands} == {"train.py", "evaluate_qa.py", "ask.py", "publish.py"}
    for _, options in commands:
        assert set(re.findall(r"--(\w+)", options)) <= TABLE.keys() | {"config"}


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder that looks like a clone of the repository, for what the commands write into it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("train.py", "evaluate_qa.py", "ask.py", "publish.py", "config.yaml", "configs", "qa"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def kill_after_a_checkpoint(command: list[str], output: Path, **more) -> None:
    """Run ``command`` until the first checkpoint is there, and kill it as a lost runtime would."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    while not list(output.glob("checkpoint-*")):
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.2)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_cells_run_and_continue_a_lost_run(clone, tmp_path, monkeypatch):
    """With the demo's configuration; neither Colab nor Kaggle is here, so that the drive is the folder of the run."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    output = tmp_path / "drive" / "a run"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "lost cache"))
    train = [sys.executable, "train.py", "--config", "configs/demo.yaml", "--output_dir", str(output)]
    kill_after_a_checkpoint([*train, "--recovery_minutes", "15"], output, cwd=clone)

    with serve() as hub:
        for name, value in {
            "HF_DATASETS_CACHE": tmp_path / "new cache",
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": WRITE,
            "CONFIG": "configs/demo.yaml",
            "RUN": output,
            "QUESTION": "Which river does Pordana lie on?",
            "CONTEXT": CONTEXT,
            "HUB_MODEL_ID": "me/model",
        }.items():
            monkeypatch.setenv(name, str(value))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(clone)}})
        client.execute()
        sent = hub.repositories["me/model"].files("main")
    printed = {
        cell.id: "".join(item.get("text", "") or str(item.get("data", "")) for item in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert not [name for name, text in printed.items() if "error:" in text or "Traceback" in text]
    assert str(output) in printed["storage"] and "with a GPU:" in printed["install"]
    assert f"resuming from {output}/checkpoint-" in printed["train"] and "exact match" in printed["train"]
    assert "image/png" in printed["curves"] and "report.html" in printed["evaluate"]
    assert (output / "evaluation/report.html").is_file()
    assert "Welu" in printed["ask"] and "Nothing is sent" in printed["preview"]
    assert f"published: {hub.endpoint}/me/model" in printed["publish"] and "model.safetensors" in sent

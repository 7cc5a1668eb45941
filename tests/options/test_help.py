"""``--help`` fits on a page, imports no large library, and lists the common options."""

import ast
import subprocess
import sys

import pytest

from qa.options.arguments import REPOSITORY
from qa.options.help import GROUPS, common_help
from qa.options.option import Option
from qa.options.table import OTHERS, RUN

BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "datasets", "numpy"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, ".")
sys.argv = [sys.argv[1], "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def shown(command: str, config=None) -> str:
    text = (REPOSITORY / f"{command}.py").read_text(encoding="utf-8")
    rows = [row for row in (*OTHERS, *RUN) if row.common]
    return common_help(command, ast.get_docstring(ast.parse(text)), rows, config)


@pytest.mark.parametrize("command", GROUPS)
def test_help_needs_no_torch_and_fits_on_a_page(command):
    argv = [sys.executable, "-c", BLOCKED, f"{command}.py"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80
    assert "--help_all" in lines[-1] and "Examples:" in lines


@pytest.mark.parametrize("command", GROUPS)
def test_every_group_has_options_and_every_common_option_is_shown_somewhere(command):
    groups = {row.group for row in (*OTHERS, *RUN) if row.common}
    assert set(GROUPS[command]) <= groups
    assert groups <= {group for each in GROUPS.values() for group in each}


def test_train_shows_the_values_of_its_recipe_as_defaults():
    text = " ".join(shown("train", REPOSITORY / "config.yaml").split())
    assert "--learning_rate Peak learning rate (2e-5)" in text and "--doc_stride" in text
    assert "--load_best_model_at_end Keep the best checkpoint's model (true)" in text


def test_ask_shows_its_own_batch_size():
    assert "Windows per batch (16)" in shown("ask")


def test_a_common_option_is_shown_by_its_first_sentence():
    row = Option("half_life", "data", "Steps it takes. Of the second kind.", 3, common=True)
    text = common_help("train", "Train.", [row])
    assert "  --half_life                   Steps it takes (3)\n" in text

"""Importing the modules that read and check questions imports neither torch nor transformers."""

import subprocess
import sys

from qa.options.arguments import REPOSITORY

MODULES = "formats", "checks", "cache", "sources", "examples", "splits", "demo"
# The modules can be found, because `datasets` checks whether they are installed, but not imported.
BLOCK = """
import importlib.abc, importlib.machinery, sys

class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is imported")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Blocker())
"""


def test_data_modules_import_without_torch_and_transformers():
    code = BLOCK + "".join(f"import qa.data.{name}\n" for name in MODULES)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

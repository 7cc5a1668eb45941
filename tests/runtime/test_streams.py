"""Standard output that is full or closed ends a command in one line, or silently."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qa.options.arguments import REPOSITORY
from qa.options.help import GROUPS
from qa.runtime.errors import UserError
from qa.runtime.process import run_command

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
NO_SPACE = "error: standard output (/dev/full): cannot be written: No space left on device\n"


def command(*argv, stdout, **kwargs) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *argv], cwd=REPOSITORY, stdout=stdout, stderr=subprocess.PIPE, text=True, **kwargs
    )
    return done.returncode, done.stderr


def closed_pipe() -> int:
    """Return the end for writing of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@needs_full
@pytest.mark.parametrize("name", GROUPS)
def test_help_on_a_full_disk_is_one_line(name):
    with FULL.open("w") as full:
        assert command(f"{name}.py", "--help", stdout=full) == (2, NO_SPACE)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_help_into_a_closed_pipe_is_silent():
    assert command("train.py", "--help", stdout=closed_pipe()) == (0, "")


PRINTING = "from qa.runtime.process import run_command; run_command(lambda: print('x' * {}))"


@needs_full
@pytest.mark.parametrize("length", [1, 100_000])  # written at the end, and while it is printed
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_on_a_full_disk_is_one_line(length, unbuffered):
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with FULL.open("w") as full:
        assert command("-c", PRINTING.format(length), stdout=full, env=environment) == (2, NO_SPACE)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
@pytest.mark.parametrize("length", [1, 100_000])
def test_output_into_a_closed_pipe_is_silent(length):
    assert command("-c", PRINTING.format(length), stdout=closed_pipe()) == (1, "")


def test_file_of_standard_output_is_named_with_the_free_space(tmp_path):
    pytest.importorskip("resource", reason="Windows limits no file sizes")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "
    with (tmp_path / "out.txt").open("w") as file:
        status, error = command("-c", limit + PRINTING.format(100), stdout=file)
    assert status == 2 and error.startswith(f"error: standard output ({tmp_path}/out.txt): cannot be written: File too")
    assert error.endswith("GiB free on the disk)\n") and error.count("\n") == 1


@needs_full
def test_error_that_nobody_can_read_keeps_its_status():
    code = """
from qa.runtime.errors import UserError
from qa.runtime.process import run_command

def main():
    raise UserError("wrong")

run_command(main)
"""
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stderr=full, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")


def test_streams_are_restored(capsys):
    def main():
        print("result")
        raise UserError("wrong")

    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2 and capsys.readouterr() == ("result\n", "error: wrong\n")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.skipif(os.name == "nt", reason="a shell's <&- closes standard input")
def test_closed_standard_input_is_empty():
    code = "import sys; from qa.runtime.process import run_command; run_command(lambda: print(repr(sys.stdin.read())))"
    line = shlex.join([sys.executable, "-c", code]) + " <&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "''\n", "")

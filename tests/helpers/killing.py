"""Train a tiny model until it is finished, killing it repeatedly. Run by test_surviving.py in its own process.

    python tests/helpers/killing.py FOLDER ARGUMENTS_FILE SEED KILLS

Everything is imported once; every attempt is a fork that kills itself, by SIGKILL, just before the n-th time that
it opens, makes, renames or removes something in the run's folder, or just after a random step.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import transformers

import train
from qa.io.run_folder import FINISHED
from qa.training.trainer import QATrainer

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate", "os.listdir"}


def attempt(folder: Path, argv: list[str], touches: int | None, steps: int | None) -> None:
    """Run train.py in this process, which is killed at the given access to the folder or step."""
    left = {"touches": touches, "steps": steps}

    def count(what: str) -> None:
        if left[what] is not None:
            left[what] -= 1
            if left[what] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            count("touches")

    class Counter(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            count("steps")

    original = QATrainer.__init__

    def init(self, **kwargs):
        original(self, **kwargs)
        self.add_callback(Counter())

    QATrainer.__init__ = init
    if touches is not None:
        sys.addaudithook(hook)
    sys.argv = ["train.py", *argv]
    train.main()


def run(folder: Path, argv: list[str], touches: int | None = None, steps: int | None = None) -> int:
    """Return the exit status of one attempt in a fork; -9 if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(folder.parent / "log", "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            attempt(folder, argv, touches, steps)
            status = 0
        except SystemExit as error:
            status = error.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, arguments_file: str, seed: str, kills: str) -> None:
    folder, rng, killed, runs, begun = Path(folder), random.Random(int(seed)), 0, 0, time.monotonic()
    argv = json.loads(Path(arguments_file).read_text())
    finished = 0
    torch.set_num_threads(1)  # before any fork
    while killed < int(kills):
        runs += 1
        restart = (folder / FINISHED).exists()  # finished before enough kills: start again from scratch
        more = ["--overwrite_output_dir", "true"] if restart else []
        if rng.random() < 0.8:
            status = run(folder, argv + more, touches=rng.randrange(150))
        else:
            status = run(folder, argv + more, steps=rng.randrange(6))
        assert status in (0, -signal.SIGKILL), f"exit status {status}"
        killed += status == -signal.SIGKILL
        finished += restart
    if not (folder / FINISHED).exists():
        status = run(folder, argv)
        assert status == 0, f"exit status {status}"
    print(json.dumps({"killed": killed, "runs": runs, "finished": finished + 1, "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])

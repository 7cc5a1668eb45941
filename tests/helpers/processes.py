"""One of several processes of test_distributed.py: run train.py as a plan says, and record scores.

    torchrun --nproc_per_node 2 tests/helpers/processes.py PLAN

PLAN is a JSON list of runs: ``argv`` of train.py, and optionally ``signal`` [process, step, number], ``pause``,
seconds after every step, and ``out_of_memory``, the process whose evaluation runs out of memory.
``seen-PROCESS.json`` in the same folder gets one entry for each completed run.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import transformers

import train
from qa.runtime.process import run_command
from qa.training.trainer import QATrainer

RANK = int(os.environ["RANK"])


class Watch(transformers.TrainerCallback):
    """Record the scores of this process, and send it the signals and pauses of the plan."""

    def __init__(self, run: dict, seen: dict):
        self.run, self.seen = run, seen

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(self.run.get("pause", 0))
        process, step, number = self.run.get("signal", (None, None, None))
        if process in (RANK, "all") and step == state.global_step:
            signal.raise_signal(number)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.seen["f1"].append(metrics["eval_f1"])

    def on_save(self, args, state, control, **kwargs):
        self.seen["best"] = state.best_metric


def main(plan: Path) -> None:
    init, score, seen = QATrainer.__init__, QATrainer.score, {}

    def watched(self, **kwargs):
        init(self, **kwargs)
        self.add_callback(Watch(run, seen))
        seen["batch"] = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps

    def scored(self, prediction):
        seen["rows"] = [len(part) for part in prediction.predictions]
        return score(self, prediction)

    def predicted(self, *args):
        if run.get("out_of_memory") == RANK:
            raise torch.OutOfMemoryError("simulated")
        return predict(self, *args)

    predict, QATrainer.predict_windows = QATrainer.predict_windows, predicted
    QATrainer.__init__, QATrainer.score, results = watched, scored, []
    for run in json.loads(plan.read_text()):
        seen.clear()
        seen |= {"status": 0, "f1": []}
        sys.argv = ["train.py", *run["argv"]]
        try:
            run_command(train.main) if "out_of_memory" in run else train.main()
        except SystemExit as error:
            seen["status"] = error.code
        results.append(dict(seen))
        plan.with_name(f"seen-{RANK}.json").write_text(json.dumps(results))
    sys.exit(seen["status"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

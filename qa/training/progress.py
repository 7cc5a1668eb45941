"""Progress of training and evaluation: a bar on a terminal, plain lines elsewhere, and when the run will be done."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from qa.runtime import console
from qa.runtime.console import format_duration, print_line

FIRST_STEPS = 5  # not measured: they compile, allocate and fill caches
ENOUGH = 20, 30.0  # steps or seconds that are measured before the remaining time is estimated
FORWARD = 1 / 3  # of the time of a training step: the backward pass takes twice as long
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
METRICS = {"exact_match": "EM", "exact": "EM", "f1": "F1", "loss": "loss"}


def evaluation_steps(args: TrainingArguments, state: TrainerState, epoch_steps: int) -> list[int]:
    """Return the steps after which a run evaluates, ascending; once more at the end if the kept model is evaluated.

    Args:
        epoch_steps: steps in an epoch.
    """
    steps, every = state.max_steps, 0
    if args.eval_strategy == IntervalStrategy.EPOCH:
        every = epoch_steps
    elif args.eval_strategy == IntervalStrategy.STEPS:
        every = int(state.eval_steps)
    due = [step for step in range(every, steps + 1, every)] if every else []
    if args.eval_strategy == IntervalStrategy.EPOCH and steps % epoch_steps:
        due.append(steps)
    delay = args.eval_delay * (epoch_steps if args.eval_strategy == IntervalStrategy.EPOCH else 1)
    due = [step for step in due if step >= delay]
    return due if due and due[-1] == steps and not args.load_best_model_at_end else [*due, steps]


@dataclass
class Pace:
    """Measured speed of a run.

    Attributes:
        evaluation_share: time of an evaluation in training steps, as long as none is measured.
        steps, seconds: measured, without evaluations. evaluation: seconds of the last one, None before it.
    """

    evaluation_share: float
    steps: int = 0
    seconds: float = 0.0
    evaluation: float | None = None

    def add_step(self, seconds: float) -> None:
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    @property
    def is_known(self) -> bool:
        return self.steps >= ENOUGH[0] or self.seconds >= ENOUGH[1]

    def seconds_left(self, step: int, steps: int, evaluations: Sequence[int]) -> float:
        """Return the seconds from after ``step`` to the end of the run.

        Args:
            evaluations: steps after which the run evaluates; those before ``step`` are done.
        """
        each = self.seconds / self.steps
        evaluation = self.evaluation_share * each if self.evaluation is None else self.evaluation
        return (steps - step) * each + sum(at > step for at in evaluations) * evaluation


def describe_end(seconds: float, now: datetime) -> str:
    """Return how long a run will take and when it will be done: ``about 2 h 10 min left (until 16:40)``."""
    end = now + timedelta(seconds=seconds)
    until = f"{end:%H:%M}" if end.date() == now.date() else f"{end.day} {end:%b %H:%M}"
    return f"about {format_duration(seconds)} left (until {until})"


def describe_evaluation(history: Sequence[dict], metric: str, greater_is_better: bool) -> str:
    """Return one line about the last evaluation in ``history``: its step and scores, and whether it is the best.

    Args:
        history: the ``log_history`` of a ``Trainer``, of which only entries with ``metric`` are evaluations.
        metric: what the best model is chosen by, without ``eval_``.
    """
    found = [entry for entry in history if f"eval_{metric}" in entry]
    sign, last = 1 if greater_is_better else -1, found[-1]
    best = max(found, key=lambda entry: sign * entry[f"eval_{metric}"])
    shown = dict.fromkeys(["exact_match", "exact", "f1", metric])
    scores = ", ".join(
        f"{METRICS.get(name, name)} {last[f'eval_{name}']:.{4 if name == 'loss' else 2}f}"
        for name in shown
        if f"eval_{name}" in last
    )
    verdict = "best so far" if best is last else f"best: step {best['step']:,}"
    return f"evaluation at step {last['step']:,}: {scores} ({verdict})"


class ProgressCallback(TrainerCallback):
    """Show progress in the main process; takes the place of those of ``Trainer``.

    With ``disable_tqdm``, as where stderr is no terminal, there are no bars. Lines of progress are printed where stdout
    is no terminal, too, such as a file beside a bar on the terminal.

    Args:
        evaluation_share: time of an evaluation in training steps, before one is measured.
    """

    def __init__(self, args: TrainingArguments, evaluation_share: float):
        self.bars, self.lines = not args.disable_tqdm, bool(args.disable_tqdm) or not sys.stdout.isatty()
        self.pace, self.evaluations, self.announced = Pace(evaluation_share), [0], False
        self.training: tqdm | None = None
        self.evaluation: tqdm | None = None
        self.batches = self.unmeasured = 0
        self.stepped = self.printed = time.monotonic()
        self.logged: tuple[str, str] | None = None  # loss and learning rate

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch_steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        self.evaluations = evaluation_steps(args, state, epoch_steps)
        self.unmeasured, self.printed = FIRST_STEPS, time.monotonic()
        if self.bars and state.is_world_process_zero:
            self.training = tqdm(
                desc="training", total=state.max_steps, initial=state.global_step, bar_format=BAR, dynamic_ncols=True
            )

    def on_step_end(self, args, state, control, **kwargs):
        now, before = time.monotonic(), self.stepped
        self.stepped = now
        if self.unmeasured:
            self.unmeasured -= 1
        else:
            self.pace.add_step(now - before)
        if not state.is_world_process_zero:
            return
        left = None
        if self.pace.is_known:
            left = self.pace.seconds_left(state.global_step, state.max_steps, self.evaluations)
            if not self.announced:
                print_line(f"{describe_end(left, datetime.now())}, evaluations included")
                self.announced = True
        if self.training is not None:
            self.training.set_postfix_str(", ".join(self.describe("lr", left)), refresh=False)
            self.training.update()
        if self.is_line_due(now):
            place = f"step {state.global_step:,} of {state.max_steps:,}"
            print_line(": ".join([place, ", ".join(self.describe("learning rate", left))]).removesuffix(": "))

    def describe(self, rate: str, left: float | None) -> list[str]:
        """Return what is known of loss, learning rate (called ``rate``) and the seconds that are left."""
        parts = [f"loss {self.logged[0]}", f"{rate} {self.logged[1]}"] if self.logged else []
        return parts if left is None else [*parts, f"{format_duration(left)} left"]

    def is_line_due(self, now: float) -> bool:
        """Return whether a line of progress is to be printed, at most once a minute."""
        if not self.lines or now - self.printed < console.INTERVAL:
            return False
        self.printed = now
        return True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.logged = f"{logs['loss']:.3f}", f"{logs['learning_rate']:.2e}"

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero:
            return
        self.batches += 1
        if self.bars:
            if self.evaluation is None:
                total = len(eval_dataloader)
                self.evaluation = tqdm(desc="evaluation", total=total, bar_format=BAR, dynamic_ncols=True, leave=False)
            self.evaluation.update()
        if self.is_line_due(time.monotonic()):
            print_line(f"evaluation: batch {self.batches:,} of {len(eval_dataloader):,}")

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self.batches = 0
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.on_predict(args, state, control)
        self.pace.evaluation = metrics["eval_runtime"]
        self.stepped = time.monotonic()
        if state.is_world_process_zero:
            metric = (args.metric_for_best_model or "f1").removeprefix("eval_")
            print_line(describe_evaluation(state.log_history, metric, args.greater_is_better is not False))

    def on_train_end(self, args, state, control, **kwargs):
        if self.training is not None:
            self.training.close()
            self.training = None

"""The weights of a run's checkpoints, read into its model: those it resumes from, and the best at its end."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from qa.model.weights import load_checkpoint
from qa.options.training_arguments import TrainingOptions
from qa.runtime.distributed import on_main_process
from qa.runtime.errors import UserError

# Two evaluations of the same weights. In one process on a CPU they compute the same; the tolerance is for sums.
SAME_PROCESS = 1e-6  # relative
# On a GPU, or on another machine before the run was resumed, logits differ in their last digits, in bf16 by 1/256.
# That changes answers whose two best spans score alike, some of them for the better: far less than this in total.
ELSEWHERE = {"loss": 0.02, "score": 0.5}  # relative; points of EM or F1, but always at least one question


class CheckpointWeightsCallback(TrainerCallback):
    """Read weights as ``load_checkpoint`` does, in place of those that ``Trainer`` has read before each event.

    Trainer copies what has the same name in file and model, and leaves the rest as it is. Architectures whose weights
    transformers converts when it saves and loads them would continue with partly random weights.

    Args:
        start: the checkpoint to resume from, None to train from scratch.
    """

    def __init__(self, start: Path | None):
        self.start = start

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if self.start:
            model.load_state_dict(load_checkpoint(self.start).state_dict())

    def on_save(self, args, state, control, model=None, **kwargs):
        """Check that a checkpoint that is the best so far contains the weights that were evaluated.

        So it need not be evaluated again if it is still the best at the end, and an architecture that is not read as
        it is written fails at its first checkpoint.
        """
        if args.load_best_model_at_end and state.best_global_step == state.global_step:
            best = Path(state.best_model_checkpoint)
            if name := on_main_process(lambda: find_difference(model, load_checkpoint(best))):
                raise not_kept(state, f"{name} in it is not the weight that was evaluated")

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint:
            model.load_state_dict(load_checkpoint(Path(state.best_model_checkpoint)).state_dict())


def find_difference(model: PreTrainedModel, other: PreTrainedModel) -> str | None:
    """Return the name of a weight that differs between two models of one architecture, None if all are equal."""
    weights = other.state_dict()
    unequal = (name for name, weight in model.state_dict().items() if not torch.equal(weight.cpu(), weights[name]))
    return next(unequal, None)


@contextmanager
def without_key_warnings() -> Iterator[None]:
    """Hide the warnings of ``Trainer`` about names in a checkpoint that its own reading could not match."""
    logger = logging.getLogger("transformers.trainer")
    logger.addFilter(is_no_key_warning)
    try:
        yield
    finally:
        logger.removeFilter(is_no_key_warning)


def is_no_key_warning(record: logging.LogRecord) -> bool:
    return "keys in the checkpoint model loaded" not in record.getMessage()


def check_kept_scores(
    state: TrainerState, args: TrainingOptions, metrics: dict[str, float], questions: int, resumed_from: int
) -> None:
    """Check that the best checkpoint, read again, scores as it did when it was saved.

    Args:
        metrics: of the model now. questions: in the validation split. resumed_from: step; 0 if not resumed.

    Raises:
        UserError: it does not.
    """
    if args.load_best_model_at_end and state.best_global_step:
        here = state.best_global_step > resumed_from and args.device.type == "cpu"
        if reason := find_other_score(best_scores(state, args), metrics, questions, here):
            raise not_kept(state, reason)


def find_other_score(before: dict[str, float], now: dict[str, float], questions: int, here: bool) -> str | None:
    """Return which score of the same weights on the same questions differs by more than rounding does, None if none.

    Args:
        here: both were computed in this process, on its CPU.
    """
    for name, value in before.items():
        allowed = SAME_PROCESS * abs(value)
        if not here:
            allowed = ELSEWHERE["loss"] * abs(value) if name == "loss" else max(ELSEWHERE["score"], 100 / questions)
        if not abs(now[name] - value) <= allowed:
            return f"its {name} is {now[name]:.4f}, and was {value:.4f} when it was saved"
    return None


def best_scores(state: TrainerState, args: TrainingOptions) -> dict[str, float]:
    """Return the metric that made a checkpoint the best, and its loss if logged, which changes with any weight."""
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    logged = (row for row in state.log_history if row["step"] == state.best_global_step and f"eval_{name}" in row)
    losses = [row["eval_loss"] for row in logged if "eval_loss" in row]
    assert state.best_metric is not None, "it is set with best_global_step"
    return {name: state.best_metric} | ({"loss": losses[0]} if losses else {})


def not_kept(state: TrainerState, reason: str) -> UserError:
    best = state.best_model_checkpoint
    command = f"python evaluate_qa.py --model_name_or_path {shlex.quote(str(best))}"
    return UserError(
        f"the best checkpoint, {best}, is not read as it was written: {reason}. No model is saved; the checkpoints are"
        f" kept: evaluate them ({command}), or save the model of the last step with --load_best_model_at_end false"
        " --resume_from_checkpoint last"
    )

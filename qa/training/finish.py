"""Write the results of a finished run, and print its summary."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from transformers import TrainerState
from transformers.trainer_utils import TrainOutput

from qa.evaluation.collapse import detect_collapse
from qa.evaluation.evaluator import Evaluation, plain_metrics
from qa.evaluation.figures import training_curves, write_picture
from qa.evaluation.report import write_report
from qa.evaluation.results import precision_rows, prefixed_results, score_rows, write_evaluation
from qa.hub.model_card import record_run
from qa.io import run_folder
from qa.io.files import write_json, write_text
from qa.io.run_folder import ALL_RESULTS, FINISHED, REPORT, RUN, TRAINER_STATE
from qa.runtime.console import format_duration, table, warn
from qa.runtime.gpus import describe_peak_memory
from qa.training.checkpoints import remove_recoveries


@dataclass(frozen=True)
class FinishedRun:
    """The data of a run whose model has been saved."""

    trained: TrainOutput
    evaluation: Evaluation  # of the saved model
    state: TrainerState
    settings: dict  # as asked for
    resolved: dict  # as in the manifest of a checkpoint
    seconds: float  # of training, with its evaluations
    windows: int  # in the training split
    resumed_from: int  # step; 0 for a run that was not resumed


def write_results(output: Path, run: FinishedRun) -> None:
    """Write evaluation, report, curves and records to ``output``; the file that marks it as finished comes last."""
    write_evaluation(output, run.evaluation)
    write_report(output, run.evaluation)
    write_picture(output / run_folder.CURVES, training_curves(run.state.log_history))
    results = plain_metrics(run.trained.metrics, "train")
    results |= {"global_step": run.trained.global_step, "features": run.windows, "resumed_from": run.resumed_from}
    record = record_run(sys.argv, run.settings, run.seconds, peak_memory(), resumed=run.resumed_from > 0)
    write_json(output / RUN, record | {"resolved": run.resolved})
    write_text(output / TRAINER_STATE, json.dumps(asdict(run.state), indent=2, sort_keys=True) + "\n")
    write_json(output / ALL_RESULTS, train_results(run) | prefixed_results(run.evaluation))
    write_json(output / FINISHED, results)
    remove_recoveries(output, before=run.trained.global_step + 1)


def train_results(run: FinishedRun) -> dict[str, float]:
    """Return the results of training as ``run_qa.py`` names them: ``train_loss``, and windows in ``train_samples``."""
    metrics = plain_metrics(run.trained.metrics, "train")
    named = {name if name in ("epoch", "total_flos") else f"train_{name}": value for name, value in metrics.items()}
    return named | {"train_samples": run.windows}


def print_results(folder: Path, run: FinishedRun) -> None:
    """Print scores, speed and the next commands; warn if the model has collapsed."""
    rows: list[tuple[str, object]] = [*score_rows(run.evaluation.metrics), *precision_rows(run.evaluation)]
    rows += [
        ("training speed", f"{run.trained.metrics['train_samples_per_second']:.1f} windows per second"),
        ("time", f"{format_duration(run.seconds)}, evaluations included"),
        ("peak memory", peak_memory()),
        ("model", folder),
        ("report", folder / REPORT),
    ]
    print("\n" + table(rows))
    if warning := detect_collapse(run.evaluation):
        warn(f"warning: training has failed: {warning}; try another seed, a lower learning_rate or warmup_steps: 0.1")
    name = shlex.quote(str(folder))
    print(
        f"\nnext:\n  python evaluate_qa.py --model_name_or_path {name}\n"
        f'  python ask.py --model_name_or_path {name} \\\n      --question "..." --context "..."'
    )


def peak_memory() -> str:
    """Return the peak memory of the GPU, or of this process where there is none, as text."""
    if described := describe_peak_memory():
        return described
    if sys.platform == "win32":
        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**30:.2f} GiB in the process"

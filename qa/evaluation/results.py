"""The results of an evaluation: rows for the terminal, the files in its folder, the threshold kept with the model."""

import json
from pathlib import Path

from qa.evaluation.evaluator import Evaluation
from qa.io import run_folder
from qa.io.files import remove, write_json, write_yaml
from qa.io.run_folder import SETTINGS
from qa.options.saved import read_settings
from qa.runtime.errors import UserError


def score_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Return EM and F1 as rows of a table; for SQuAD 2.0 also those of its parts and at the best threshold."""
    exact = metrics["exact_match"] if "exact_match" in metrics else metrics["exact"]
    rows = [("exact match", f"{exact:.2f}"), ("F1", f"{metrics['f1']:.2f}")]
    for prefix, name in (("HasAns", "answerable"), ("NoAns", "unanswerable")):
        if f"{prefix}_f1" in metrics:
            rows.append((name, f"EM {metrics[f'{prefix}_exact']:.2f}, F1 {metrics[f'{prefix}_f1']:.2f}"))
    if "best_f1" in metrics:
        rows.append(("best threshold", f"{metrics['best_f1_thresh']:.4f}, with F1 {metrics['best_f1']:.2f}"))
    return rows


def count_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return precision, loss and counts as rows of a table."""
    rows = precision_rows(evaluation)
    if "loss" in evaluation.metrics:
        rows.append(("loss", f"{evaluation.metrics['loss']:.4f}"))
    rows.append(("questions", f"{len(evaluation.examples):,}"))
    return rows if evaluation.windows is None else [*rows, ("windows", f"{len(evaluation.windows):,}")]


def precision_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the precision of a model's evaluation as a row of a table."""
    precision = evaluation.provenance.precision
    return [("precision", precision)] if precision else []


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write predictions, n-best lists, for SQuAD 2.0 null odds, and last the scores, ``eval_results.json``.

    As in the examples of transformers, ``all_results.json`` has them, too, besides those of training if it is there.
    """
    for name in (run_folder.NBEST, run_folder.NULL_ODDS, run_folder.COMPARISON):
        remove(folder / name)  # left by an earlier evaluation
    write_json(folder / run_folder.PREDICTIONS, evaluation.predictions)
    if evaluation.answers:
        write_json(folder / run_folder.NBEST, evaluation.answers.nbest)
    if evaluation.null_odds:
        write_json(folder / run_folder.NULL_ODDS, evaluation.null_odds)
    counts = {"examples": len(evaluation.examples)}
    if evaluation.windows is not None:
        counts["features"] = len(evaluation.windows)
    write_json(folder / run_folder.ALL_RESULTS, read_train_results(folder) | prefixed_results(evaluation))
    write_json(folder / run_folder.SCORES, evaluation.metrics | counts | dict(precision_rows(evaluation)))


def prefixed_results(evaluation: Evaluation) -> dict[str, float]:
    """Return all scores as ``run_qa.py`` names them: ``eval_f1``, and in ``eval_samples`` the number of windows."""
    samples = len(evaluation.examples if evaluation.windows is None else evaluation.windows)
    return {f"eval_{name}": value for name, value in evaluation.metrics.items()} | {"eval_samples": samples}


def read_train_results(folder: Path) -> dict:
    """Return what ``all_results.json`` in ``folder`` has besides scores of an evaluation; empty if there is none."""
    try:
        results = json.loads((folder / run_folder.ALL_RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in results.items() if not name.startswith("eval_")}


def save_best_threshold(folder: str, metrics: dict[str, float]) -> None:
    """Write the best threshold for F1 into the settings of the model in ``folder``, for ``ask.py`` and evaluations.

    Raises:
        UserError: leaving every question unanswered scores at least as well as any threshold.
    """
    if metrics["best_f1"] <= 100.0 * metrics.get("NoAns_total", 0) / metrics["total"]:
        raise UserError(
            "save_best_threshold: no threshold scores better on these questions than leaving all of them unanswered;"
            " the model's settings are unchanged"
        )
    threshold = metrics["best_f1_thresh"]
    path = Path(folder) / SETTINGS
    settings = read_settings(str(path) if path.is_file() else None)
    write_yaml(path, settings | {"version_2_with_negative": True, "null_score_diff_threshold": threshold})
    print(f"null_score_diff_threshold {threshold:.4f} saved in {path}")

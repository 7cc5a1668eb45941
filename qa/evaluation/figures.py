"""The figures of the report and of a training run, drawn by matplotlib without a display."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from qa.evaluation.analysis import Calibration, Curve, Group
from qa.io.files import write_bytes

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#878787"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qa",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
}


@rc_context(STYLE)
def as_image(figure: Figure) -> str:
    """Return the figure as a data URL for an ``img`` element."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def new_figure(width: float, height: float, **kwargs) -> tuple[Figure, Any]:
    """Return a figure, its size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


@rc_context(STYLE)
def group_bars(groups: list[Group]) -> Figure:
    """Draw EM and F1 of each group with their intervals."""
    figure, axes = new_figure(5.6, 0.8 + 0.42 * len(groups))
    place = np.arange(len(groups))
    for shift, scores, intervals, colour, name in (
        (-0.19, [g.exact for g in groups], [g.exact_interval for g in groups], BLUE, "EM"),
        (0.19, [g.f1 for g in groups], [g.f1_interval for g in groups], ORANGE, "F1"),
    ):
        axes.barh(place + shift, scores, height=0.36, color=colour, label=name)
        low, high = np.array(intervals).T
        spread = np.clip([scores - low, high - scores], 0, None)
        axes.errorbar(scores, place + shift, xerr=spread, fmt="none", ecolor="#333333", elinewidth=1)
    axes.set_yticks(place, [f"{g.name} ({g.count:,})" for g in groups])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@rc_context(STYLE)
def threshold_figure(curve: Curve, current: float | None, best: float) -> Figure:
    """Draw the scores against the threshold, with the current and the best threshold."""
    figure, axes = new_figure(7, 3.6)
    inside = curve.threshold[1:]
    low, high = np.percentile(inside, (1, 99))
    margin = 0.05 * (high - low) or 1.0
    some = np.unique(np.linspace(1, len(inside), 600).astype(int))
    for values, colour, line, name in (
        (curve.f1, ORANGE, "-", "F1"),
        (curve.exact, BLUE, "-", "EM"),
        (curve.answerable_f1, GREY, "--", "F1, answerable"),
        (curve.unanswerable_f1, GREY, ":", "F1, unanswerable"),
    ):
        axes.step(curve.threshold[some], values[some], where="post", color=colour, linestyle=line, label=name)
    marks = [(best, "#1b7837", f"best F1: {best:.2f}")]
    if current is not None:
        marks.append((current, "#333333", f"current: {current:.2f}"))
    for place, colour, name in marks:
        axes.axvline(place, color=colour, linewidth=1, linestyle="-.", label=name)
    axes.set_xlim(min(low - margin, *(m[0] for m in marks)), max(high + margin, *(m[0] for m in marks)))
    axes.set_ylim(0, 100)
    axes.set_xlabel("null_score_diff_threshold (higher: answers more questions)")
    figure.legend(loc="outside right upper")
    return figure


@rc_context(STYLE)
def calibration_figure(result: Calibration) -> Figure:
    """Draw the share of exact matches against confidence; the area of a point shows the questions in its bin."""
    figure, axes = new_figure(4.6, 3.6)
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    sizes = 20 + 200 * result.count / result.count.max()
    axes.plot(100 * result.confidence, 100 * result.correct, color=BLUE, linewidth=1)
    axes.scatter(100 * result.confidence, 100 * result.correct, s=sizes, color=BLUE, alpha=0.7, label="questions")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 105)
    axes.set_xlabel("probability of the answer, %")
    axes.set_ylabel("exact matches, %")
    axes.legend(loc="upper left")
    return figure


@rc_context(STYLE)
def training_curves(history: list[dict]) -> Figure:
    """Draw loss and scores against steps, from the ``log_history`` of a ``Trainer``."""
    figure, (left, right) = new_figure(9, 3.4, ncols=2)
    names = ("loss", "eval_loss", "eval_exact_match", "eval_exact", "eval_f1")
    lines = {name: [(entry["step"], entry[name]) for entry in history if name in entry] for name in names}
    for axes, name, colour, marker, label in (
        (left, "loss", BLUE, "", "training"),
        (left, "eval_loss", ORANGE, "o", "validation"),
        (right, "eval_exact_match", BLUE, "o", "EM"),
        (right, "eval_exact", BLUE, "o", "EM"),
        (right, "eval_f1", ORANGE, "o", "F1"),
    ):
        if lines[name]:
            axes.plot(*zip(*lines[name], strict=True), color=colour, marker=marker, label=label)
    left.set_title("loss")
    right.set_title("validation scores")
    for axes in (left, right):
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend()
    left.set_ylim(bottom=0)
    if right.lines:
        top = max(value for name in names[2:] for _, value in lines[name])
        right.set_ylim(0, min(105, top * 1.15 + 1))
    return figure


@rc_context(STYLE)
def write_picture(path: Path, figure: Figure) -> None:
    """Write the figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    write_bytes(path, file.getvalue())

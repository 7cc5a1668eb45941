"""``report.html``: one file that shows how good the answers are, where they fail, and why."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from qa.evaluation import analysis, figures
from qa.evaluation.evaluator import Evaluation
from qa.evaluation.scores import Scores
from qa.io.files import write_text
from qa.io.run_folder import REPORT
from qa.runtime.versions import VERSION, library_versions

MOST_QUESTIONS, MOST_CHARACTERS = 20_000, 30_000_000  # listed in one report, and of their contexts


def compare_with(evaluation: Evaluation, name: str, other: Scores) -> dict:
    """Return the paired comparison with other predictions for the same questions; changes in points."""
    result: dict[str, Any] = {"other": name}
    ours = evaluation.scores
    for score, values, others in (("exact", ours.exact, other.exact), ("f1", ours.f1, other.f1)):
        found = analysis.paired_bootstrap(values, others)
        points = {key: 100 * value for key, value in asdict(found).items() if key != "p_value"}
        result[score] = {"this": 100 * float(values.mean()), "other": 100 * float(others.mean())} | points
        result[score]["p_value"] = found.p_value
        if score == "exact":
            result |= {"gained": int((values > others).sum()), "lost": int((values < others).sum())}
    return result


def difference_rows(comparison: dict) -> list[tuple[str, str]]:
    """Return the comparison as rows of a table."""
    rows = []
    for score, name in (("exact", "EM"), ("f1", "F1")):
        found = comparison[score]
        spread = f"95 % {found['low']:+.2f} to {found['high']:+.2f}, p {found['p_value']:.4f}"
        rows.append((f"{name} against {comparison['other']}", f"{found['difference']:+.2f} ({spread})"))
    return [*rows, ("exact matches", f"{comparison['gained']:,} gained, {comparison['lost']:,} lost")]


def find_prediction(prediction: str, context: str, gold_starts: list[int]) -> int:
    """Return where a prediction known by its text only occurs nearest to a gold answer; -1 if it does not occur."""
    places, found = [], context.find(prediction) if prediction else -1
    while found >= 0:
        places.append(found)
        found = context.find(prediction, found + 1)
    gold = [start for start in gold_starts if start >= 0] or [0]
    return min(places, key=lambda place: min(abs(place - start) for start in gold), default=-1)


def example_rows(evaluation: Evaluation, kinds: list[int], change: np.ndarray | None) -> dict:
    """Return what the list of examples shows, worst first: each context once, and a row for each question."""
    examples, answers, scores = evaluation.examples, evaluation.answers, evaluation.scores
    order = np.lexsort((-answers.confidence if answers else np.zeros(len(kinds)), scores.f1, scores.exact))
    ids, questions, contexts = (examples[name][:] for name in ("id", "question", "context"))
    golds, rows, size = examples["answers"][:], [], 0
    numbers: dict[str, int] = {}  # of each context, in the order of their first question
    for i in order[:MOST_QUESTIONS].tolist():
        context, text = contexts[i], evaluation.predictions.get(ids[i], "")
        if context not in numbers:
            size += len(context)
            if size > MOST_CHARACTERS:
                break
        start = int(answers.best_spans[i, 0]) if answers else -1
        if not text or start < 0 or not context.startswith(text, start):
            start = find_prediction(text, context, golds[i]["answer_start"])
        row = [ids[i], questions[i], numbers.setdefault(context, len(numbers)), text, start, golds[i]["text"]]
        row += [golds[i]["answer_start"], int(scores.exact[i]), round(100 * float(scores.f1[i]), 1), kinds[i]]
        row.append(round(float(answers.confidence[i]), 4) if answers else None)
        row.append(round(evaluation.null_odds[ids[i]], 3) if evaluation.null_odds else None)
        row.append(int(change[i]) if change is not None else 0)
        rows.append(row)
    return {"contexts": list(numbers), "rows": rows, "kinds": analysis.KINDS, "total": len(ids)}


def as_script_data(value) -> Markup:
    """Return JSON for a script element: no text in it can begin or end an element or a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def find_kinds(evaluation: Evaluation, golds: list[list[str]]) -> list[int]:
    """Return for each question the position of its outcome in ``analysis.KINDS``."""
    answers, scores, kinds = evaluation.answers, evaluation.scores, []
    first = answers.first.tolist() if answers else []
    for i, key in enumerate(evaluation.examples["id"]):
        nbest = answers.texts[first[i] : first[i + 1]] if answers else []
        prediction = evaluation.predictions.get(key, "")
        kinds.append(analysis.kind_of(prediction, golds[i], scores.exact[i], scores.f1[i], nbest))
    return kinds


def ceiling_section(evaluation: Evaluation) -> dict:
    """Return EM and F1 of perfect logits, and how many of the wrong answers would be wrong with those, too."""
    if evaluation.ceiling is None:
        return {}
    best = evaluation.ceiling
    unreachable = int(((evaluation.scores.exact == 0) & (best.exact == 0)).sum())
    return {"ceiling": (100 * best.exact.mean(), 100 * best.f1.mean(), unreachable)}


def calibration_section(evaluation: Evaluation) -> dict:
    """Return the calibration: confidence against the share of exact matches."""
    if evaluation.answers is None:
        return {}
    found = analysis.calibration(evaluation.answers.confidence, evaluation.scores.exact)
    image = figures.as_image(figures.calibration_figure(found))
    return {"calibration": found, "bins": range(len(found.count)), "calibration_image": image}


def threshold_section(evaluation: Evaluation, golds: list[list[str]]) -> dict:
    """SQuAD 2.0: the scores at every threshold on the null odds."""
    odds, best = evaluation.null_odds, evaluation.best
    if not odds or best is None or "best_f1_thresh" not in evaluation.metrics:
        return {}
    values = np.array([odds[key] for key in evaluation.examples["id"]])
    answerable = np.array([bool(texts) for texts in golds])
    curve = analysis.threshold_curve(values, best.exact, best.f1, answerable)
    figure = figures.threshold_figure(curve, evaluation.threshold, evaluation.metrics["best_f1_thresh"])
    return {"threshold_image": figures.as_image(figure)}


def fact_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return what was evaluated, when, and with which versions."""
    versions = {"albert-squad-qa": VERSION} | library_versions(("transformers", "torch"))
    return [
        *((name, text) for name, text in asdict(evaluation.provenance).items() if text),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


def render_report(evaluation: Evaluation, comparison: dict | None = None, other: Scores | None = None) -> str:
    """Return the page. ``comparison`` is that of ``compare_with`` with the scores ``other``."""
    examples, scores = evaluation.examples, evaluation.scores
    golds = [item["text"] for item in examples["answers"]]
    kinds = find_kinds(evaluation, golds)
    groups = analysis.break_downs(
        examples["question"][:], examples["context"][:], golds, evaluation.windows, scores.exact, scores.f1
    )
    data = example_rows(evaluation, kinds, None if other is None else scores.exact - other.exact)
    page = {
        "evaluation": evaluation,
        "facts": fact_rows(evaluation),
        "overall": analysis.group("all", scores.exact, scores.f1),
        "kinds": [(name, kinds.count(number)) for number, name in enumerate(analysis.KINDS) if number in kinds],
        "groups": [(name, parts, figures.as_image(figures.group_bars(parts))) for name, parts in groups.items()],
        "agreement": analysis.human_agreement(golds),
        "comparison": comparison,
        "data": data,
        "script_data": as_script_data(data),
    }
    page |= ceiling_section(evaluation) | calibration_section(evaluation) | threshold_section(evaluation, golds)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html").render(page)


def write_report(folder: Path, *args) -> Path:
    """Write ``render_report(*args)`` to ``report.html`` and return its path."""
    write_text(folder / REPORT, render_report(*args))
    return folder / REPORT

"""``report.html``: one file that says how good the answers are, where they fail, and why."""

import json
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from qa.evaluation import analysis, figures
from qa.evaluation.evaluator import Evaluation
from qa.io.files import write_text
from qa.io.run_folder import REPORT

SHOWN, TEXT = 20_000, 30_000_000  # questions, and characters of context, that one report holds


def compare_with(evaluation: Evaluation, name: str, others: dict[str, str]) -> dict:
    """The paired comparison with other predictions for the same questions; changes in points."""
    result = {"other": name}
    pairs = zip(("exact", "f1"), evaluation.scores(evaluation.predictions), evaluation.scores(others), strict=True)
    for score, ours, theirs in pairs:
        found = analysis.paired_bootstrap(ours, theirs)
        points = {key: 100 * value for key, value in asdict(found).items() if key != "p_value"}
        result[score] = {"this": 100 * float(ours.mean()), "other": 100 * float(theirs.mean())} | points
        result[score]["p_value"] = found.p_value
        if score == "exact":
            result |= {"gained": int((ours > theirs).sum()), "lost": int((ours < theirs).sum())}
    return result


def differences(comparison: dict) -> list[tuple[str, str]]:
    """The comparison for a table on the terminal."""
    rows = []
    for score, name in (("exact", "EM"), ("f1", "F1")):
        found = comparison[score]
        spread = f"95 % {found['low']:+.2f} to {found['high']:+.2f}, p {found['p_value']:.4f}"
        rows.append((f"{name} against {comparison['other']}", f"{found['difference']:+.2f} ({spread})"))
    return [*rows, ("exact matches", f"{comparison['gained']:,} gained, {comparison['lost']:,} lost")]


def place_of(prediction: str, context: str, gold_starts: list[int]) -> int:
    """Where to show an answer known by its text only: where it occurs nearest to a gold answer; -1 nowhere."""
    places, found = [], context.find(prediction) if prediction else -1
    while found >= 0:
        places.append(found)
        found = context.find(prediction, found + 1)
    gold = [start for start in gold_starts if start >= 0] or [0]
    return min(places, key=lambda place: min(abs(place - start) for start in gold), default=-1)


def example_rows(evaluation: Evaluation, exact, f1, kinds: list[int], change: np.ndarray | None) -> dict:
    """What the list of examples shows, worst first: contexts once, and a row for each question."""
    examples, answers = evaluation.examples, evaluation.answers
    order = np.lexsort((-answers.confidence if answers else np.zeros(len(f1)), f1, exact))
    ids, questions, contexts = (examples[name][:] for name in ("id", "question", "context"))
    golds, places, rows, size = examples["answers"][:], {}, [], 0
    for i in order[:SHOWN].tolist():
        context, text = contexts[i], evaluation.predictions.get(ids[i], "")
        if context not in places:
            size += len(context)
            if size > TEXT:
                break
        span = answers.best_spans[i].tolist() if answers else [-1, -1]
        if not text or contexts[i][slice(*span)] != text:
            start = place_of(text, context, golds[i]["answer_start"])
            span = [start, start + len(text)]
        row = [ids[i], questions[i], places.setdefault(context, len(places)), text, span[0], golds[i]["text"]]
        row += [golds[i]["answer_start"], int(exact[i]), round(100 * float(f1[i]), 1), kinds[i]]
        row.append(round(float(answers.confidence[i]), 4) if answers else None)
        row.append(round(evaluation.null_odds[ids[i]], 3) if evaluation.null_odds else None)
        row.append(int(change[i]) if change is not None else 0)
        rows.append(row)
    return {"contexts": list(places), "rows": rows, "kinds": analysis.KINDS, "total": len(ids)}


def as_script_data(value) -> Markup:
    """JSON that no text in it can leave: neither a script element nor a comment can begin or end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def render_report(evaluation: Evaluation, comparison: dict | None = None, others: dict[str, str] | None = None) -> str:
    """The whole page. ``comparison`` is that of ``compare_with``, ``others`` its predictions."""
    examples, answers, odds = evaluation.examples, evaluation.answers, evaluation.null_odds
    questions, contexts = examples["question"][:], examples["context"][:]
    golds = [item["text"] for item in examples["answers"]]
    ids = examples["id"][:]
    exact, f1 = evaluation.scores(evaluation.predictions)
    first = answers.first.tolist() if answers else None
    kinds = [
        analysis.kind_of(
            evaluation.predictions.get(ids[i], ""),
            golds[i],
            exact[i],
            f1[i],
            answers.texts[first[i] : first[i + 1]] if answers else [],
        )
        for i in range(len(ids))
    ]
    groups = analysis.break_downs(questions, contexts, golds, evaluation.windows, exact, f1)
    page = {
        "evaluation": evaluation,
        "overall": analysis.group("all", exact, f1),
        "kinds": [(name, kinds.count(number)) for number, name in enumerate(analysis.KINDS) if number in kinds],
        "groups": [(name, parts, figures.as_image(figures.group_bars(parts))) for name, parts in groups.items()],
        "agreement": analysis.human_agreement(golds),
        "comparison": comparison,
    }
    if evaluation.ceiling:
        best_exact, best_f1 = evaluation.scores(evaluation.ceiling)
        page["ceiling"] = 100 * best_exact.mean(), 100 * best_f1.mean(), int(((exact == 0) & (best_exact == 0)).sum())
    if answers:
        page["calibration"] = analysis.calibration(answers.confidence, exact)
        page["bins"] = range(len(page["calibration"].count))
        page["calibration_image"] = figures.as_image(figures.calibration_figure(page["calibration"]))
    if odds and "best_f1_thresh" in evaluation.metrics:
        best = evaluation.scores(answers.best_texts if answers else evaluation.predictions)
        answerable = np.array([bool(texts) for texts in golds])
        curve = analysis.threshold_curve(np.array([odds[key] for key in ids]), *best, answerable)
        best_f1 = evaluation.metrics["best_f1_thresh"]
        page["threshold_image"] = figures.as_image(figures.threshold_figure(curve, evaluation.threshold, best_f1))
    change = None if others is None else exact - evaluation.scores(others)[0]
    page["data"] = example_rows(evaluation, exact, f1, kinds, change)
    page["script_data"] = as_script_data(page["data"])
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html").render(page)


def write_report(folder: Path, *args) -> Path:
    """Writes ``render_report(*args)`` to ``report.html``."""
    write_text(folder / REPORT, render_report(*args))
    return folder / REPORT

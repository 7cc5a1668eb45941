"""Turn what annotation tools export into rows with our columns.

Haystack's annotation tool and cdQA's annotator write SQuAD's JSON, which needs no conversion. Label Studio writes tasks
with their annotations (JSON), or one row per annotation (JSON-MIN, CSV, TSV).
"""

import json
from collections.abc import Iterable, Iterator

from qa.data.squad_json import Unreadable

TASK_FIELDS = {"data", "annotations"}  # of Label Studio's JSON
ANNOTATION_FIELDS = {"annotator", "annotation_id"}  # of its JSON-MIN, CSV and TSV


def convert_exports(rows: Iterable[tuple[str, object]], notes: list[str]) -> Iterator[tuple[str, object]]:
    """Yield the same (place, row), those of Label Studio converted.

    Args:
        notes: gets the name of the tool.
    """
    recognized = False
    for place, row in rows:
        converted = convert_row(row) if isinstance(row, dict) else row
        if not recognized and (tool := "Label Studio" if converted is not row else squad_tool(row)):
            recognized = True
            notes.append(f"{tool} export")
        yield place, converted


def squad_tool(row) -> str:
    """Return the name of the tool whose fields an answer in SQuAD's JSON has; empty if there are none."""
    answers = row.get("answers") if isinstance(row, dict) else None
    first = answers[0] if isinstance(answers, list) and answers else None
    return "Haystack annotation tool" if isinstance(first, dict) and "answer_category" in first else ""


def convert_row(row: dict):
    """Return a row of Label Studio with ``context`` and ``answers``; any other row itself."""
    if row.keys() >= TASK_FIELDS and isinstance(row["data"], dict):
        return convert_task(row)
    if row.keys() >= ANNOTATION_FIELDS and "answers" not in row:
        spans = [span for value in row.values() for span in read_spans(value)]
        return add_answers(row, spans)
    return row


def convert_task(task: dict):
    """Return the row of one task of Label Studio's JSON; the answers are the spans that all its annotators marked."""
    annotations = task["annotations"] if isinstance(task["annotations"], list) else []
    kept = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    if not kept:
        return Unreadable("has no annotation, or only skipped ones: finish the task, or leave it out of the export")
    results = [item for each in kept for item in each.get("result") or [] if isinstance(item, dict)]
    spans = [span for item in results for span in read_spans([item.get("value")])]
    return add_answers(({"id": task["id"]} if "id" in task else {}) | task["data"], spans)


def add_answers(row: dict, spans: list[dict]) -> dict:
    """Return a row with the spans as its answers, and with the template's ``text`` as its context if it has none."""
    answers = [{"text": span["text"], "answer_start": span["start"]} for span in spans]
    context = {"context": row["text"]} if "text" in row and "context" not in row else {}
    return row | context | {"answers": answers}


def read_spans(value) -> list[dict]:
    """Return the marked spans in a column of a row, a list or its JSON text; empty if it has none."""
    if isinstance(value, str) and value.startswith('[{"'):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    if not isinstance(value, list):
        return []
    return [span for span in value if isinstance(span, dict) and {"start", "text"} <= span.keys()]

"""The report: its content, escaping of all text, and (with a browser) its behaviour."""

import html
import json
import re
import shutil
import time

import pytest
import torch
import transformers
from datasets import Dataset
from helpers.commands import run

import evaluate_qa
from qa.data.examples import FEATURES
from qa.evaluation.collapse import detect_collapse
from qa.evaluation.evaluator import Evaluation, Provenance
from qa.evaluation.report import compare_with, difference_rows, render_report
from qa.evaluation.scores import Scores, gold_answers, score_predictions
from qa.runtime.versions import VERSION

HOSTILE = '</script><script>document.title="broken"</script><!--<b>&amp;"\''
ROWS = [
    ("q1", "Who wrote it?", "🙂 It was written by Ann, not by Bob.", ["Ann"]),
    ("q2", "Where <i>is</i> it?", f"It is in {HOSTILE} Sollen.", ["Sollen"]),
    ("q3", "ומה שמה?", "שמה של הנהר הוא וינדל.", ["וינדל"]),
    ("q4", "Who left?", "Nobody says who.", []),
]
PROVENANCE = Provenance(model=f"a {HOSTILE} model")
PREDICTIONS = {"q1": "Bob", "q2": HOSTILE, "q3": "וינדל", "q4": "Nobody"}


def make_evaluation(predictions=PREDICTIONS, rows=ROWS, provenance=PROVENANCE) -> Evaluation:
    columns = {
        "id": [row[0] for row in rows],
        "title": [""] * len(rows),
        "context": [row[2] for row in rows],
        "question": [row[1] for row in rows],
        "answers": [{"text": row[3], "answer_start": [row[2].index(text) for text in row[3]]} for row in rows],
    }
    examples = Dataset.from_dict(columns, features=FEATURES)
    scores = score_predictions(predictions, gold_answers(examples), True)
    return Evaluation(provenance, examples, predictions, scores, scores.totals, True)


def scores_of(predictions: dict[str, str]) -> Scores:
    return make_evaluation(predictions).scores


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S).group(1))


def test_every_question_is_listed_with_its_places_worst_first():
    data = data_of(render_report(make_evaluation()))
    rows = {row[0]: row for row in data["rows"]}
    assert [row[7] for row in data["rows"]] == [0, 0, 0, 1] and data["total"] == 4
    for key, question, context, golds in ROWS:
        row = rows[key]
        assert (row[1], data["contexts"][row[2]], row[5]) == (question, context, golds)
        assert context[row[4] : row[4] + len(row[3])] == row[3] == PREDICTIONS[key]
        assert [context[start : start + len(text)] for text, start in zip(row[5], row[6], strict=True)] == golds
    assert [data["kinds"][rows[key][9]] for key in PREDICTIONS] == [
        "no overlap",
        "no overlap",
        "correct",
        "answered an unanswerable question",
    ]


def test_report_loads_nothing_and_escapes_all_text():
    page = render_report(make_evaluation())
    assert not re.search(r"\b(src|href|action)=(?!\"data:)", page)
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    assert (
        page.count("<script") == 2
        and 'title="broken"'
        not in html.unescape(re.sub(r"<script.*?</script>", "", page, flags=re.S)).split("<title>")[0]
    )
    assert "<b>&amp;" not in page and "<i>is</i>" not in page


def test_report_names_its_data_model_date_and_versions():
    provenance = Provenance(data="a/dev.json, b <i>.json", model="runs/large", logits="saved.npz")
    page = render_report(make_evaluation(provenance=provenance))
    head = page.split("<script")[0]
    rows = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", head))
    assert rows.keys() == {"data", "model", "logits", "date", "versions"}
    assert rows.pop("versions") == f"albert-squad-qa {VERSION}, transformers {transformers.__version__}, torch " + (
        torch.__version__
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", rows.pop("date"))
    assert rows == {"data": "a/dev.json, b &lt;i&gt;.json", "model": "runs/large", "logits": "saved.npz"}
    assert "<h1>saved.npz</h1>" in page


def test_report_is_the_same_apart_from_the_date():
    pages = [re.sub(r"<dt>date</dt>.*", "", render_report(make_evaluation())) for _ in range(2)]
    assert pages[0] == pages[1]


def test_report_numbers_match_the_metric():
    evaluation = make_evaluation()
    page = render_report(evaluation)
    assert f"<b>{evaluation.metrics['exact']:.2f}</b> exact match" in page
    assert f"<b>{evaluation.metrics['f1']:.2f}</b> F1" in page


def test_comparison():
    evaluation = make_evaluation()
    others = scores_of({"q1": "Ann", "q2": "in Sollen", "q3": "x", "q4": "Nobody"})
    comparison = compare_with(evaluation, "other", others)
    assert (comparison["gained"], comparison["lost"]) == (1, 1)
    assert comparison["exact"]["difference"] == 0 and comparison["f1"]["difference"] == pytest.approx(
        -100 * (2 / 3) / 4
    )
    page = render_report(evaluation, comparison, others)
    assert "Against other" in page and {row[12] for row in data_of(page)["rows"]} == {-1, 0, 1}
    assert [name for name, _ in difference_rows(comparison)] == [
        "EM against other",
        "F1 against other",
        "exact matches",
    ]


def test_collapsed_model_is_detected():
    rows = [(f"q{i}", "Who?", f"Ann and Bob {i}", ["Bob"]) for i in range(40)]
    golden = {row[0]: ["Bob", "Ann", "and", str(i)][i % 4] for i, row in enumerate(rows)}
    assert detect_collapse(make_evaluation(golden, rows)) is None
    assert "no answer to 100% of the answerable questions" in detect_collapse(
        make_evaluation(dict.fromkeys(golden, ""), rows)
    )
    assert "same answer, 'and', to 95%" in detect_collapse(
        make_evaluation(dict.fromkeys(golden, "and") | {"q1": "x", "q2": "y"}, rows)
    )
    assert detect_collapse(make_evaluation({"q1": "Ann"}, rows[1:2])) is None, "one question tells nothing"


@pytest.fixture(scope="module")
def browser():
    chromedriver = shutil.which("chromedriver")
    if not chromedriver:
        pytest.skip("no chromedriver here: install chromium and chromium-driver to look at the report in a browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def test_in_a_browser(browser, tmp_path):
    evaluation = make_evaluation()
    others = scores_of(PREDICTIONS | {"q1": "Ann"})
    path = tmp_path / "report.html"
    path.write_text(render_report(evaluation, compare_with(evaluation, "other", others), others), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.title.startswith("a </script>"), "shown as text, not run"
    assert not browser.get_log("browser")
    cards = lambda: browser.find_elements("tag name", "article")  # noqa: E731
    assert len(cards()) == 4
    first = next(card for card in cards() if "q1" in card.text)
    marks = {mark.get_attribute("class"): mark.text for mark in first.find_elements("tag name", "mark")}
    assert marks == {"gold": "Ann", "prediction": "Bob"}, "places count characters, the smile is one"
    assert HOSTILE in next(card for card in cards() if "q2" in card.text).text

    search = browser.find_element("id", "search")
    search.send_keys("SOLLEN")
    assert len(cards()) == 1 and "1 of 4 questions" in browser.find_element("id", "count").text
    search.clear()
    search.send_keys("no such words")
    assert len(cards()) == 0
    search.clear()
    search.send_keys(" ")
    for kind, count in (("all errors", 3), ("correct", 1), ("lost", 1), ("all questions", 4)):
        option = next(o for o in browser.find_elements("css selector", "#kind option") if o.text == kind)
        option.click()
        assert len(cards()) == count, kind
    assert browser.save_screenshot(str(tmp_path / "report.png")) and (tmp_path / "report.png").stat().st_size > 20_000

    browser.set_window_size(500, 900)
    width, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    browser.set_window_size(1100, 1600)
    assert width <= window, "nothing is wider than a phone"


OUTSIDE = """
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    const right = (each) => each.getBoundingClientRect().right, found = [];
    for (const cell of document.querySelectorAll("th, td, dt, dd, h1, h2, h3, p, img, input, select, .context"))
        if (right(cell) > Math.min(innerWidth, ...[cell.closest(".wide")].filter(Boolean).map(right)) + 0.5)
            found.push(cell.textContent.slice(0, 40) || cell.tagName);
    return [document.documentElement.scrollWidth, document.querySelectorAll("td").length, found];
"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_column_is_cut_off(browser, tmp_path, width):
    """Every cell is on the screen, without scrolling, also with long names and words and scores of 100."""
    word = "Donaudampfschiff" * 12
    rows = [*ROWS, *((f"{word}{i}", f"Since when is {word} there?", f"{word} Ann", ["Ann", word]) for i in range(9))]
    provenance = Provenance(data=f"/home/jo/{word}/dev.json", model=f"runs/{word}")
    evaluation = make_evaluation({row[0]: "Ann" for row in rows}, rows, provenance)
    others = make_evaluation({row[0]: word for row in rows}, rows).scores
    comparison = compare_with(evaluation, word, others)
    comparison["exact"] |= {"this": 100.0, "difference": -12.34, "low": -14.56, "high": -10.12}
    path = tmp_path / "report.html"
    path.write_text(render_report(evaluation, comparison, others), encoding="utf-8")
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(path.as_uri())
        widest, cells, outside = browser.execute_script(OUTSIDE)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert widest <= width and cells > 50
    assert outside == []


def test_report_on_all_published_predictions_opens(browser, shared, tmp_path):
    data = ("--validation_file", shared / "data/squad/dev-v1.1.json.gz", "--output_dir", tmp_path)
    run(evaluate_qa, "--predictions", shared / "data/predictions/v1.1-bert-large-ensemble.json.gz", *data)
    begun = time.perf_counter()
    browser.get((tmp_path / "report.html").as_uri())
    count = browser.find_element("id", "count").text
    opened = time.perf_counter() - begun
    assert count == "10,570 of 10,570 questions, the first 30 shown" and opened < 2
    browser.find_element("id", "search").send_keys("normans")
    took = browser.execute_script("const begun = performance.now(); filter(); return performance.now() - begun")
    found = int(browser.find_element("id", "count").text.split(" of ")[0])
    assert 50 < found < 1000 and took < 200
    print(f"opens in {opened:.2f} s, filters {found} questions in {took:.0f} ms")

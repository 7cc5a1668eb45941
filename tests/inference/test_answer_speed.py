"""The benchmark of answers runs, and compares them with those of an earlier run."""

import json

import pytest
from helpers.builders import squad
from helpers.commands import train_tiny

from benchmarks import answer_speed


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model):
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output, "--max_steps", 1)
    return output


def test_answers_are_timed_and_compared(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answer_speed, "LONG_CHARACTERS", 300)
    rows = [(f"{name} was born in Sollen in 1931.", f"Where was {name} born?", "Sollen") for name in ("Mira", "Arna")]
    (tmp_path / "dev.json").write_text(json.dumps(squad(rows * 10)), encoding="utf-8")
    argv = ["--model_name_or_path", str(trained), "--validation_file", str(tmp_path / "dev.json"), "--device", "cpu"]
    argv += ["--rounds", "1"]
    answer_speed.main([*argv, "--answers", str(tmp_path / "answers.json")])
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert len(answers) == 20 and all(item.keys() == {"score", "start", "end", "answer"} for item in answers.values())
    table = capsys.readouterr().out
    assert "the 300 questions" in table and table.count("20 of 20 spans equal (100.0%)") >= 1
    first = next(iter(answers))
    answers[first] |= {"start": answers[first]["start"] + 1, "score": answers[first]["score"] + 0.25}
    (tmp_path / "other.json").write_text(json.dumps(answers))
    answer_speed.main([*argv, "--compare", str(tmp_path / "other.json")])
    assert "other.json: 19 of 20 spans equal (95.0%), scores within 0.25" in capsys.readouterr().out


def test_the_questions_are_the_same_in_every_run(tmp_path):
    text = "Paragraph {0}: it is told at some length that Ann was born in town {0}. "
    rows = [(text.format(i) * 4, "Where?", f"town {i}") for i in range(700)]
    (tmp_path / "dev.json").write_text(json.dumps(squad(rows)), encoding="utf-8")
    classes = answer_speed.make_classes(str(tmp_path / "dev.json"))
    assert {name: len(part) for name, part in classes.items()} == {
        answer_speed.OWN: 270, answer_speed.LONG_TEXTS: 30, "150 characters": 60, "1,500 characters": 30
    }  # fmt: skip
    assert classes == answer_speed.make_classes(str(tmp_path / "dev.json"))
    assert all(len(text) > 6000 for _, text in classes[answer_speed.LONG_TEXTS].values())
    assert all(100 < len(text) <= 150 for _, text in classes["150 characters"].values())
    assert all(1400 < len(text) <= 1500 for _, text in classes["1,500 characters"].values())

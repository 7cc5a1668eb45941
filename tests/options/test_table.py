"""The table has a row for every option, and its rows are correct."""

import dataclasses
import subprocess
import sys

import pytest
from transformers import HfArgumentParser, TrainingArguments

from qa.options.arguments import (
    REPOSITORY,
    AskArguments,
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    PublishArguments,
)
from qa.options.option import option, takes_list
from qa.options.parser import ArgumentParser, boolean, parse_arguments, read_options
from qa.options.saved import as_settings, with_full_paths
from qa.options.table import OTHERS, RUN, TABLE, TrainingRows, find_option
from qa.options.training_arguments import TrainingOptions, check_training
from qa.runtime.errors import UserError

ALL = (ModelArguments, DataArguments, TrainingOptions)


def unclassified(kind: type) -> list[str]:
    return [item.name for item in dataclasses.fields(kind) if item.name not in TABLE]


def test_every_field_of_training_arguments_has_a_row():
    names = unclassified(TrainingArguments)
    assert not names, f"new in this transformers, add a row in qa/options/training_fields.py: {', '.join(names)}"


def test_a_new_field_of_training_arguments_counts_as_one_that_changes_the_result():
    @dataclasses.dataclass
    class Newer(TrainingArguments):
        half_life: float = 1.0

    assert unclassified(Newer) == ["half_life"]
    row = find_option("half_life")
    assert row.changes_result == "always" and row.published == "no" and row.saved


def test_rows_are_unique():
    for rows in (RUN, OTHERS):
        names = [row.name for row in rows]
        assert len(names) == len(set(names))


def test_rows_refer_to_existing_options():
    for row in TABLE.values():
        assert set(row.excludes) <= TABLE.keys()
        assert not (row.refused and row.common) and not (row.instead and row.help)


def test_common_rows_show_the_defaults_of_transformers():
    defaults = {item.name: item.default for item in dataclasses.fields(TrainingOptions)}
    for row in RUN:
        if row.common and row.name in defaults and row.name != "output_dir":
            assert row.default == defaults[row.name], row.name


def test_published_options_name_no_file():
    assert not [row.name for row in TABLE.values() if row.published != "no" and (row.path or row.private)]


@pytest.mark.parametrize("name", [row.name for row in RUN if row.refused])
def test_refused_options_give_a_reason(name):
    default = getattr(TrainingOptions("x"), name)
    other = not default if isinstance(default, bool) else 0.1 if isinstance(default, float) else ["x"]
    with pytest.raises(UserError, match=f"{name} is not supported here, because .*: leave it out"):
        check_training(dataclasses.replace(TrainingOptions("x"), **{name: other}))


def test_list_options_take_several_values():
    names = {item.name for item in dataclasses.fields(DataArguments) if takes_list(item.type)}
    assert names == {"dataset_name", "dataset_config_name", "train_file", "columns", "max_train_samples_per_source"}


@pytest.mark.parametrize("kind", [*ALL, AskArguments, EvaluationArguments, PublishArguments])
def test_fields_become_arguments_as_in_transformers(kind):
    """Spellings, numbers of values, choices and values match HfArgumentParser; defaults are the dataclass's.

    There a flag whose default is None takes a value; here every flag works without one.
    """
    fields = [(item.name, item.type, field_without_row(item)) for item in dataclasses.fields(kind)]
    bare = dataclasses.make_dataclass("Bare", fields)
    theirs = {action.dest: action for action in HfArgumentParser(bare)._actions if action.dest != "help"}
    ours = {action.dest: action for action in ArgumentParser((kind,))._actions if action.dest != "config"}
    assert ours.keys() == theirs.keys()
    for name, action in ours.items():
        bare = {"nargs": "?", "const": True} if action.type is boolean else {}
        for attribute in ("option_strings", "nargs", "const"):
            assert getattr(action, attribute) == bare.get(attribute, getattr(theirs[name], attribute)), name
        assert list(action.choices or ()) == list(theirs[name].choices or ()), name
        for text in ("true", "7", "1e-5", "epoch"):
            assert converted(action, text) == converted(theirs[name], text), name


def test_rows_parse_what_training_arguments_parses():
    """Only choices that the libraries alone know are text here, and are checked once these are loaded."""
    theirs = {action.dest: action for action in ArgumentParser((TrainingOptions,))._actions}
    ours = {action.dest: action for action in ArgumentParser((TrainingRows,))._actions}
    assert theirs.keys() - ours.keys() == {"hub_token", "fsdp"} and ours.keys() <= theirs.keys()
    for name, action in ours.items():
        their = theirs[name]
        for attribute in ("option_strings", "nargs", "const"):
            assert getattr(action, attribute) == getattr(their, attribute), name
        if action.choices:
            assert list(action.choices) == list(their.choices or ()), name
        for text in ("true", "7", "1e-5", "epoch"):
            assert text == converted(action, text) or converted(action, text) == converted(their, text), name


def field_without_row(item: dataclasses.Field):
    """Return a copy of a field without our row, which HfArgumentParser would hand to ``add_argument``."""
    known = {name: value for name, value in item.metadata.items() if name != "option"}
    if item.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=item.default_factory, metadata=known)
    return dataclasses.field(default=item.default, metadata=known)


def converted(action, text: str):
    try:
        return action.type(text) if action.type else text
    except Exception as error:
        return type(error)


def test_defaults_match_hf_argument_parser():
    (theirs,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses([])
    (ours,) = parse_arguments((TrainingArguments,), [])
    assert ours.to_dict() | {"logging_dir": 0} == theirs.to_dict() | {"logging_dir": 0}


def test_options_are_parsed_once_and_override_the_settings_of_a_model(tmp_path):
    (tmp_path / "settings.yaml").write_text("max_seq_length: 100\ndoc_stride: 7\ntrain_file: a.json\noutput_dir: x\n")
    given = read_options(ALL, ["--doc_stride", "9", "--dataset_name", "a/b"])
    assert given.build(DataArguments)[0].max_seq_length == 384
    over = given.over(tmp_path / "settings.yaml")
    _, data, args = over.build()
    assert (data.max_seq_length, data.doc_stride, data.train_file) == (100, 9, None)
    assert args.output_dir == TrainingOptions(None).output_dir
    assert given.over(None) == given and given.config == {}, "what was asked for stays as it was"
    assert given.over(tmp_path / "settings.yaml", output_dir="y").build()[2].output_dir == "y"
    assert given.over(None, doc_stride=8, n_best_size=5).build(DataArguments)[0].n_best_size == 5
    assert (given.value("doc_stride"), given.value("output_dir")) == (9, None)


def test_a_named_config_replaces_the_settings_of_a_model(tmp_path):
    (tmp_path / "settings.yaml").write_text("max_seq_length: 100\n")
    (tmp_path / "c.yaml").write_text("doc_stride: 7\n")
    argv = ["--config", str(tmp_path / "c.yaml")]
    (data,) = parse_arguments((DataArguments,), argv, saved=tmp_path / "settings.yaml")
    assert (data.max_seq_length, data.doc_stride) == (384, 7)


def test_files_are_saved_with_their_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = with_full_paths(as_settings(DataArguments(train_file=["a.json", "b.json"], demo_dir="demo")))
    assert settings["train_file"] == [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert settings["validation_file"] is None and settings["demo_dir"] == "demo"


def test_a_new_option_needs_only_a_field():
    @dataclasses.dataclass
    class Newer:
        half_life: int = option(3, "Steps.")

    assert parse_arguments((Newer,), ["--half-life", "4"])[0].half_life == 4
    assert as_settings(*parse_arguments((Newer,), [])) == {"half_life": 3}


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import qa.options.arguments, qa.options.combinations, qa.options.help, qa.options.saved, qa.options.parser
from qa.options.arguments import DataArguments, ModelArguments
model, data = qa.options.parser.parse_arguments((ModelArguments, DataArguments), ["--max_seq_length", "99"])
assert data.max_seq_length == 99 and model.model_revision == "main"
assert qa.options.saved.as_settings(data)["max_seq_length"] == 99
"""


def test_options_are_read_without_torch_and_transformers():
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

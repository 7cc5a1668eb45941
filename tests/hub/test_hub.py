"""Publish to a local Hub with the unmodified client, and load models of others without running their code."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.builders import FAMILIES
from helpers.commands import SMALL, read, run, train_tiny
from helpers.hub_server import CUT, FINE, LOST, NARROW, READ, WRITE, serve_to_client
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import get_session
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, BertConfig, DebertaV2Config, ElectraConfig, RobertaConfig

import evaluate_qa
import publish
import train
from ask import QuestionAnswerer
from qa.hub import publish as publishing
from qa.hub.model_card import clean_command, is_local_path, make_card, published_settings, record_run
from qa.io.files import write_json, write_yaml
from qa.model.loading import load_config
from qa.model.weights import load_model
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.saved import as_settings, published_names
from qa.runtime.errors import UserError

QUESTION = {"question": "Where was Zoë born?", "context": "It was long ago. Zoë was born in Sollen in 1931. " * 6}
COMMIT, PREUPLOAD = r"POST /api/models/me/model/commit", r"POST /api/models/me/model/preupload"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub; the client has its address, a token with write access and an empty cache, and does not sleep."""
    with serve_to_client(monkeypatch, tmp_path / "hub_cache") as server:
        server.waits = []
        monkeypatch.setattr("time.sleep", server.waits.append)
        yield server


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model) -> Path:
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output)
    return output


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(trained, copy)
    return copy


def push(folder: Path, *more) -> None:
    run(publish, "--model_dir", folder, "--hub_model_id", "me/model", *more)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_published_model_is_downloaded_unchanged(hub, tiny_data, tiny_model, tmp_path, capsys):
    output = tmp_path / "home" / "jo" / "model"
    output.parent.mkdir(parents=True)
    train_tiny(tiny_data, tiny_model, output, "--push_to_hub", "true", "--hub_model_id", "model")
    printed = capsys.readouterr()
    assert f"published: {hub.endpoint}/me/model" in printed.out
    repository = hub.repositories["me/model"]
    sent = repository.files("main")
    wanted = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "eval_results.json"}
    assert sent.keys() == wanted | {"README.md", "settings.yaml", "curves.png", ".gitattributes"}
    assert sent["model.safetensors"] == (output / "model.safetensors").read_bytes()
    (tag,) = repository.tags
    assert re.fullmatch(r"run-\d{4}-\d\d-\d\d-\d{6}", tag) and repository.refs[tag] == repository.refs["main"]

    everything = [
        *read_files(tmp_path).values(),
        *hub.received,
        *sent.values(),
        printed.out.encode(),
        printed.err.encode(),
    ]
    assert len(everything) > 30 and not any(WRITE.encode() in content for content in everything)
    for name in ("README.md", "settings.yaml", "eval_results.json", "config.json", "tokenizer_config.json"):
        assert str(tmp_path).encode() not in sent[name] and b"home" not in sent[name], name

    (tmp_path / "published.yaml").write_bytes(sent["settings.yaml"])  # together with the data, enough to repeat the run
    files = ("--train_file", tiny_data / "train.json", "--validation_file", tiny_data / "dev.json.gz")
    more = ("--config_name", tiny_model, "--cache_dir", tmp_path, "--report_to", "none", "--output_dir", tmp_path / "b")
    run(train, "--config", tmp_path / "published.yaml", *files, *more)
    assert (tmp_path / "b/model.safetensors").read_bytes() == sent["model.safetensors"]

    local, remote = QuestionAnswerer.from_pretrained(str(output)), QuestionAnswerer.from_pretrained("me/model")
    assert remote(QUESTION, top_k=5) == local(QUESTION, top_k=5)
    assert remote.settings.max_seq_length == 48 and remote.settings.doc_stride == 8
    data = (
        "--validation_file",
        tiny_data / "dev.json.gz",
        "--cache_dir",
        tmp_path / "c",
        "--output_dir",
        tmp_path / "e",
    )
    run(evaluate_qa, "--model_name_or_path", "me/model", *data)
    again, first = read(tmp_path / "e/eval_results.json"), read(output / "eval_results.json")
    assert (again["exact_match"], again["f1"], again["features"]) == (
        first["exact_match"],
        first["f1"],
        first["features"],
    )


def test_files_on_the_hub_are_not_uploaded_again(hub, folder):
    push(folder)
    assert len(hub.uploads()) == 2 and hub.repositories["me/model"].commits.keys() & set(
        hub.repositories["me/model"].refs.values()
    )
    before, tags = dict(hub.repositories["me/model"].refs), set(hub.repositories["me/model"].tags)
    hub.log.clear()
    push(folder)
    assert hub.uploads() == [] and not [line for line in hub.log if "/commit/" in line]
    assert hub.repositories["me/model"].refs == before and hub.repositories["me/model"].tags == tags


def test_private_revision_and_tag(hub, folder, capsys):
    push(folder, "--private", "true", "--revision", "second/try", "--tag", "v1")
    repository = hub.repositories["me/model"]
    assert repository.private and "model.safetensors" in repository.files("second/try")
    assert (
        "model.safetensors" not in repository.files("main") and repository.refs["v1"] == repository.refs["second/try"]
    )
    (folder / "eval_results.json").write_text(json.dumps(read(folder / "eval_results.json") | {"f1": 1.0}))
    with pytest.raises(UserError, match="the tag v1 is on another commit: choose another --tag"):
        push(folder, "--private", "true", "--revision", "second/try", "--tag", "v1")
    push(folder, "--revision", "second/try")
    (folder / "eval_results.json").write_text(json.dumps(read(folder / "eval_results.json") | {"f1": 2.0}))
    capsys.readouterr()
    push(folder, "--revision", "second/try")
    assert "is on an earlier upload of this run and was not moved" in capsys.readouterr().err


def test_a_range_of_a_file_is_served(hub, folder):
    push(folder)
    url = f"{hub.endpoint}/me/model/resolve/main/model.safetensors"
    part = get_session().get(url, headers={"Range": "bytes=5-24"})
    whole = (folder / "model.safetensors").read_bytes()
    assert part.status_code == 206 and part.content == whole[5:25]
    assert part.headers["Content-Range"] == f"bytes 5-24/{len(whole)}"
    assert part.headers["X-Repo-Commit"] == HfApi().model_info("me/model").sha
    tree = {item.path: item for item in HfApi().list_repo_tree("me/model")}
    assert tree["model.safetensors"].lfs.sha256 == hashlib.sha256(whole).hexdigest()


WRITES = ("POST", "PUT", "DELETE", "PATCH")


@pytest.mark.parametrize(
    ("token", "name", "private", "shown"),
    [
        (WRITE, "me/model", False, "repository  me/model|account     me|state       not found on the Hub; would be"),
        (WRITE, "model", True, "repository  me/model|would be created, private"),
        (WRITE, "me/public", False, "state       exists, public"),
        (WRITE, "me/public", True, "state       exists and is public; publishing would fail with --private"),
        (WRITE, "me/secret", False, "state       exists, private"),
        (READ, "me/model", False, "account     me; publishing would fail: the token is read-only"),
        (
            None,
            "model",
            False,
            "repository  USER/model|account     not known: no token found|state       not known without the account",
        ),
    ],
)
def test_a_dry_run_shows_everything_and_sends_nothing(
    hub, folder, monkeypatch, tmp_path, capsys, token, name, private, shown
):
    HfApi().create_repo("me/public")
    HfApi().create_repo("me/secret", private=True)
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.log.clear()
    before = read_files(folder)
    more = ("--private", "true") if private else ()
    run(publish, "--model_dir", folder, "--hub_model_id", name, *more, "--tag", "v1", "--dry_run")
    output = capsys.readouterr().out
    assert not [line for line in hub.log if line.startswith(WRITES)] and read_files(folder) == before
    for text in shown.split("|"):
        assert text in output
    head, card = output.split("README.md:\n\n")
    repository = re.search(r"repository  (\S+)", head)[1]
    contents = publishing.upload_contents(folder, repository)
    assert card.strip() == contents["README.md"].decode().strip()
    listed = re.findall(r"^  (\S+) +\d[\d.]* k?M?B$", head, re.M)
    assert listed == sorted(contents) and f"{len(contents)} files" in head
    assert max(map(len, head.splitlines())) <= 80


def test_a_dry_run_lists_what_the_upload_contains(hub, folder, capsys):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMy own card.", encoding="utf-8")
    push(folder, "--dry_run", "true")
    output = capsys.readouterr().out
    assert output.endswith("README.md:\n\n---\nlicense: mit\n---\nMy own card.\n")
    push(folder)
    sent = {path: len(content) for path, content in hub.repositories["me/model"].files("main").items()}
    del sent[".gitattributes"]
    for path, size in sent.items():
        assert re.search(rf"^  {re.escape(path)} +{size if size < 1000 else f'{size / 1000:.1f}'} k?B$", output, re.M)
    assert re.search(rf"^  {len(sent)} files +{sum(sent.values()) / 1000:.1f} kB$", output, re.M)


def test_output_in_a_file_has_no_progress_bars(folder):
    command = [sys.executable, "publish.py", "--model_dir", str(folder), "--hub_model_id", "me/model", "--dry_run"]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": WRITE}  # nothing listens there
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0 and done.stderr == ""


def test_a_dry_run_needs_no_network(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_TOKEN", WRITE)
    push(folder, "--dry_run")
    printed = capsys.readouterr()
    assert "account     not known: the connection to the Hub failed" in printed.out and printed.err == ""
    assert 'from_pretrained("me/model")' in printed.out
    with pytest.raises(UserError, match="not a valid repository name"):
        run(publish, "--model_dir", folder, "--hub_model_id", "a b", "--dry_run")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"not the folder of a finished run: it has no config\.json"):
        push(folder, "--dry_run")


def test_nothing_is_uploaded_to_a_public_repository_with_private(hub, folder):
    HfApi().create_repo("me/model")
    with pytest.raises(UserError, match="me/model already exists and is public"):
        push(folder, "--private", "true")
    assert not hub.uploads()


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        (READ, "me/model", "the token is read-only: use a token with write access"),
        (NARROW, "me/model", "the token has no write access to me/model"),
        (WRITE, "google/bert", "me has no write access to google"),
        (WRITE, "club/model", "me has no write access to club"),
        (WRITE, "a b", "not a valid repository name"),
        ("hf_unknown", "me/model", r"the Hub answered 401 \(.*\): log in with `hf auth login`"),
        (None, "me/model", "no token found: log in with `hf auth login`"),
    ],
)
def test_a_target_that_cannot_be_published_to_fails_before_training(
    hub, monkeypatch, tmp_path, tiny_data, tiny_model, token, name, message
):
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=f"cannot publish as {name}: {message}") as error:
        train_tiny(tiny_data, tiny_model, tmp_path / "model", "--push_to_hub", "true", "--hub_model_id", name)
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists() and not hub.repositories


def test_write_access_by_a_fine_grained_token_or_an_organization(hub, monkeypatch):
    assert publishing.open_repository(HfApi(), publishing.Target("lab/model")) == "lab/model"
    monkeypatch.setenv("HF_TOKEN", FINE)
    assert publishing.open_repository(HfApi(), publishing.Target("model")) == "me/model"


REFUSALS = [
    ("GET /api/whoami", 401, {}, r"the Hub answered 401 \(.*\): log in with `hf auth login`"),
    ("POST /api/repos/create", 403, {}, "the Hub answered 403"),
    (PREUPLOAD, 403, {}, r"the Hub answered 403 \(refused\): use a token with write access"),
    (COMMIT, 409, {}, r"the Hub answered 409 \(refused\): the repository was changed"),
    (COMMIT, 413, {}, r"the Hub answered 413 \(refused\): a file is larger"),
    (COMMIT, 429, {"Retry_After": "3600"}, r"the Hub answered 429 \(refused\): wait 3600 s, as requested"),
    (COMMIT, 500, {}, r"the Hub answered 500 \(refused\)"),
    ("POST /api/validate-yaml", 502, {}, "the Hub answered 502"),
    ("PUT /lfs", 413, {}, "the Hub answered 413"),
    ("PUT /lfs", CUT, {}, "the connection to the Hub failed"),
    (COMMIT, CUT, {}, "the connection to the Hub failed"),
    ("POST /api/models/me/model/tag", 500, {}, "the Hub answered 500"),
]


@pytest.mark.parametrize(("request_line", "status", "headers", "message"), REFUSALS)
def test_a_failed_upload_is_one_line_and_leaves_the_model_unchanged(
    hub, folder, monkeypatch, capsys, request_line, status, headers, message
):
    before = read_files(folder)
    hub.refuse(request_line, status, **headers)
    with pytest.raises(SystemExit) as stop:
        publish.run_command(lambda: push(folder))
    *retries, error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and re.search(f"^error: not published: {message}", error)
    command = f"python publish.py --model_dir {folder} --hub_model_id me/model"
    assert f"The model is complete in {folder}; to retry: {command}" in error
    assert all("; retrying in " in line or re.match(r"Retrying in \d+s", line) for line in retries)
    assert read_files(folder) == before and sum(hub.waits) < 400

    hub.refusals.clear()  # then the command in the message succeeds
    words = command.split()
    run(publish, *words[2:])
    assert "model.safetensors" in hub.repositories["me/model"].files("main")


@pytest.mark.parametrize(
    ("request_line", "status", "headers", "waited"),
    [
        (COMMIT, 429, {"Retry_After": "7"}, 7),
        (COMMIT, 500, {}, 1),
        (COMMIT, CUT, {}, 1),
        ("POST /api/repos/create", 503, {}, 1),
        ("GET /api/whoami", CUT, {}, 1),
    ],
)
def test_temporary_errors_are_retried(hub, folder, capsys, request_line, status, headers, waited):
    hub.refuse(request_line, status, times=1, **headers)
    push(folder)
    assert hub.waits == [waited] and "model.safetensors" in hub.repositories["me/model"].files("main")
    assert capsys.readouterr().err.count(f"; retrying in {waited} s") == 1


def test_the_client_retries_an_interrupted_upload(hub, folder):
    hub.refuse("PUT /lfs", CUT, times=1)
    hub.refuse("PUT /lfs", 500, times=1)
    push(folder)
    assert len(hub.uploads()) == 4 and len(hub.repositories["me/model"].commits) == 2


def test_a_commit_is_not_repeated_if_only_its_reply_was_lost(hub, folder, capsys):
    hub.refuse(COMMIT, LOST, times=1)
    hub.refuse("POST /api/models/me/model/tag", LOST, times=1)
    push(folder)
    repository = hub.repositories["me/model"]
    assert len(repository.commits) == 2 and len([line for line in hub.log if "/commit/" in line]) == 1
    assert [repository.refs[tag] for tag in repository.tags] == [repository.refs["main"]]
    assert capsys.readouterr().err.count("; retrying in") == 2


def test_an_interrupted_upload_prints_the_command_to_retry(hub, folder, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupt)
    with pytest.raises(SystemExit) as stop:
        push(folder)
    assert stop.value.code == 130
    assert re.search(r"^interrupted, not published\. .* to retry: python publish", capsys.readouterr().err, re.M)


def test_a_failed_upload_after_training_keeps_the_model(hub, tiny_data, tiny_model, tmp_path):
    hub.refuse(COMMIT, 413)
    output = tmp_path / "model"
    with pytest.raises(UserError, match=r"not published: .* 413 .* complete in \S+model; to retry: python publish.py"):
        train_tiny(tiny_data, tiny_model, output, "--push_to_hub", "true", "--hub_model_id", "me/model")
    assert read(output / "eval_results.json")["examples"] == 16 and load_file(output / "model.safetensors")
    hub.refusals.clear()
    hub.log.clear()
    push(output)
    assert hub.uploads() == [], "the weights were already uploaded"
    assert hub.repositories["me/model"].files("main")["config.json"] == (output / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "it has no config.json"),
        ("eval_results.json", "not the folder of a finished run"),
        ("model.safetensors", "no weights in safetensors format"),
    ],
)
def test_an_unfinished_folder_is_not_published(hub, folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=message):
        push(folder)
    assert not hub.log


def test_only_listed_files_are_uploaded(trained, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained, copy)
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "trainer_state.json",
        "notes.txt",
        "pytorch_model.bin",
        "curves.png",
    ):
        (copy / name).write_bytes(b"x")
    names = set(publishing.upload_contents(copy, "me/model"))
    assert {"curves.png", "README.md", "settings.yaml", "model.safetensors"} <= names
    kept = {"optimizer.pt", "training_args.bin", "trainer_state.json", "notes.txt", "pytorch_model.bin", "run.json"}
    assert not names & (kept | {"train_results.json", "predictions.json", "nbest_predictions.json"})
    assert "curves.png" in publishing.upload_contents(copy, "me/model")["README.md"].decode()
    (copy / "README.md").write_text("my card")
    assert publishing.upload_contents(copy, "me/model")["README.md"] == copy / "README.md"


def test_the_card_describes_the_run(hub, trained):
    push(trained)
    card = ModelCard.load("me/model")
    card.validate()
    scores = read(trained / "eval_results.json")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {name: round(scores[name], 4) for name in ("exact_match", "f1")}
    assert card.data.pipeline_tag == "question-answering" and card.data.library_name == "transformers"
    for text in (
        f"{scores['f1']:.2f}",
        "| learning_rate | 0.001 |",
        "| seed | 42 |",
        "transformers 5",
        "CPU cores",
        "minutes",
    ):
        assert text in card.text
    command = next(line for line in card.text.splitlines() if line.startswith("python train.py"))
    assert "--train_file train.json" in command and "--learning_rate 1e-3" in command and "/" not in command
    assert "from random weights" in card.text and "the data's own license" in card.text and card.data.license is None


def test_the_code_in_the_card_runs(hub, trained, capsys):
    push(trained)
    code = re.search(r"```python\n(import torch.*?)```", ModelCard.load("me/model").text, re.S).group(1)
    name, context = "Zoë", "Zoë was born in Sollen in 1931."
    code = code.replace("Who wrote it?", f"Where was {name} born?").replace("It was written by Ann.", context)
    exec(code, {})
    shown = capsys.readouterr().out.strip().splitlines()[-1]
    best = QuestionAnswerer.from_pretrained(str(trained))(
        f"Where was {name} born?", context, align_to_words=False, top_k=20
    )
    assert shown and shown in [answer["answer"] for answer in best][:2]


def test_the_card_of_a_squad_2_model(trained, tmp_path, capsys):
    copy = tmp_path / "model"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    settings = yaml.safe_load((copy / "settings.yaml").read_text())
    settings |= {"version_2_with_negative": True, "null_score_diff_threshold": -1.5, "train_file": None}
    (copy / "settings.yaml").write_text(yaml.safe_dump(settings))
    more = {"dataset": "rajpurkar/squad_v2", "base_model": "albert/albert-base-v2", "random_start": False}
    (copy / "run.json").write_text(json.dumps(read(copy / "run.json") | more))
    scores = {"exact": 70.5, "f1": 73.25, "HasAns_exact": 1.0, "HasAns_f1": 2.0, "NoAns_f1": 3.0, "examples": 11873}
    (copy / "eval_results.json").write_text(json.dumps(scores))
    card = make_card(copy, "me/model")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"exact": 70.5, "f1": 73.25} and card.data.eval_results[0].dataset_type == "rajpurkar/squad_v2"
    assert card.data.base_model == "albert/albert-base-v2" and card.data.datasets == ["rajpurkar/squad_v2"]
    assert (
        "CC BY-SA 4.0" in card.text
        and "by more than -1.5" in card.text
        and "| F1, without answer | 3.00 |" in card.text
    )
    code = re.search(r"```python\n(import torch.*?)```", card.text, re.S).group(1)
    exec(code.replace("me/model", str(copy)), {})
    assert capsys.readouterr().out.strip()
    sent = published_settings(copy)
    assert sent["null_score_diff_threshold"] == -1.5 and sent["dataset_name"] == "rajpurkar/squad_v2"
    assert sent.keys() <= set(published_names()) and not any(is_local_path(str(value)) for value in sent.values())


def test_the_card_lists_every_dataset(tmp_path):
    data = DataArguments(dataset_name=["rajpurkar/squad", "UCLNLP/adversarial_qa"], dataset_config_name=["null", "x"])
    settings = as_settings(ModelArguments(model_name_or_path="albert/albert-base-v2"), data)
    write_yaml(tmp_path / "settings.yaml", settings)
    write_json(tmp_path / "run.json", record_run(["train.py"], settings, 1.0, "", False))
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    write_json(tmp_path / "eval_results.json", {"exact_match": 1.0, "f1": 2.0, "examples": 3})
    card = make_card(tmp_path, "jo/model")
    assert card.data.datasets == ["rajpurkar/squad", "UCLNLP/adversarial_qa"]
    result = card.data.eval_results[0]
    assert (result.dataset_type, result.dataset_name, result.dataset_config) == ("rajpurkar/squad", "SQuAD 1.1", None)
    assert "https://huggingface.co/datasets/UCLNLP/adversarial_qa" in card.text
    assert "fine-tuned on SQuAD 1.1 and UCLNLP/adversarial_qa" in card.text


def test_published_commands_contain_no_paths():
    argv = ["/home/jo/x/train.py", "--config", "configs/demo.yaml", "--train_file=/home/jo/a b/t.json", "--seed", "7"]
    argv += ["--model_name_or_path", "albert/albert-base-v2", "--output_dir", "~/jo/out", "--push_to_hub", "true"]
    argv += ["--hub_model_id", "jo/x", "--resume_from_checkpoint", "last", "--cache_dir", "/home/jo/c", "--fp16"]
    assert clean_command(argv) == (
        "python train.py --config configs/demo.yaml --train_file t.json --seed 7"
        " --model_name_or_path albert/albert-base-v2 --output_dir out --fp16"
    )
    assert clean_command(["train.py", "--train_file", r"C:\Users\jo\t.json"]).endswith(" --train_file t.json")


def test_settings_from_the_hub_cannot_name_files(hub, trained, capsys):
    """The settings of a model on the Hub are not trusted: they may not name files to read or write here."""
    push(trained)
    repository = hub.repositories["me/model"]
    settings = b"max_seq_length: 40\nsave_logits: /tmp/x.npz\n"
    repository.commit("main", repository.files("main") | {"settings.yaml": settings})
    answerer = QuestionAnswerer.from_pretrained("me/model")
    assert answerer.settings.max_seq_length == 384
    assert "settings.yaml of me/model is skipped: it sets save_logits" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta", "electra"])
def test_models_of_others_are_evaluated_from_the_hub(hub, kind, tiny_data, tmp_path):
    """Any extractive model with safetensors weights, without a settings.yaml."""
    tokenizer = FAMILIES["bert" if kind == "electra" else kind]()
    options = {"type_vocab_size": 1, "pad_token_id": 1} if kind == "roberta" else {}
    config = {"bert": BertConfig, "roberta": RobertaConfig, "deberta": DebertaV2Config, "electra": ElectraConfig}[kind](
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        **options,
    )
    source = tmp_path / "source"
    AutoModelForQuestionAnswering.from_config(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    HfApi().create_repo("me/theirs")
    hub.repositories["me/theirs"].commit("main", read_files(source))
    data = ("--validation_file", tiny_data / "dev.json.gz", "--cache_dir", tmp_path / "c")
    run(evaluate_qa, "--model_name_or_path", "me/theirs", *data, "--output_dir", tmp_path / "there")
    run(evaluate_qa, "--model_name_or_path", source, *data, "--output_dir", tmp_path / "here")
    assert read(tmp_path / "there/predictions.json") == read(tmp_path / "here/predictions.json")


class FileCreator:
    """Create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_are_never_loaded(trained, tmp_path):
    """Neither plain tensors nor code."""
    copy = tmp_path / "model"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    source = ModelArguments(model_name_or_path=str(copy))
    for content in (weights, weights | {"x": FileCreator(tmp_path / "created")}):
        torch.save(content, copy / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"has only pickled weights.*safetensors") as error:
            load_model(source, load_config(source), training=False)
        assert "\n" not in str(error.value) and not (tmp_path / "created").exists()


def test_code_of_a_model_is_not_run(trained, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForQuestionAnswering": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'created')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        run(evaluate_qa, "--model_name_or_path", copy, "--output_dir", tmp_path / "x", *SMALL)
    assert not (tmp_path / "created").exists()

"""Links and anchors of the documents resolve; the README links to every page, and every page back to it."""

import re

import pytest
import yaml
from helpers.documents import DOCUMENTS, README, REPOSITORY, anchors, blocks, links

from qa.options.arguments import DataArguments, ModelArguments
from qa.options.table import OTHERS, RUN, TABLE, rows_of
from qa.options.training_fields import OurTrainingOptions

NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_resolve(document):
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{path}: no such file"
        assert target.is_relative_to(REPOSITORY), f"{path}: outside the repository"
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=NAMES[1:])
def test_pages_and_readme_link_to_each_other(document):
    """The changelog has a standard format, so only the README links to it."""
    back = {(document.parent / path).resolve() for path, _ in links(document) if path}
    assert README in back or document.name == "CHANGELOG.md"
    assert document in {(REPOSITORY / path).resolve() for path, _ in links(README) if path}


def test_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_named_files_exist(document):
    """Files of the repository that the text names in backticks, such as ``configs/demo.yaml``."""
    named = r"`((?:qa|tests|configs|docs|benchmarks)/[\w./-]+)`"
    for path in re.findall(named, document.read_text(encoding="utf-8")):
        assert (REPOSITORY / path).exists(), path


def test_example_diffs_fit_the_code():
    """In CONTRIBUTING.md, every line that a diff removes, keeps or is placed by is in the file it names."""
    path, checked = REPOSITORY, 0
    for block in blocks(REPOSITORY / "CONTRIBUTING.md", "diff"):
        for line in block.splitlines():
            if line.startswith("+++ b/"):
                path = REPOSITORY / line.removeprefix("+++ b/")
            elif line.startswith(("-", " ", "@@ ")) and not line.startswith("---"):
                wanted = line.removeprefix("@@ ") if line.startswith("@@") else line[1:]
                assert wanted in path.read_text(encoding="utf-8"), f"{path}: {wanted}"
                checked += 1
    assert checked


def test_options_page_names_real_options():
    page = (REPOSITORY / "docs/options.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (`[a-z].*?) \|", page, re.M):
        assert set(re.findall(r"`(\w+)`", row)) <= TABLE.keys(), row


def test_options_are_documented():
    """The documents name all of our options, and all common ones of ``TrainingArguments``."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    ours = (*OTHERS, *rows_of(ModelArguments), *rows_of(DataArguments), *rows_of(OurTrainingOptions))
    for row in (*ours, *(row for row in RUN if row.common)):
        assert f"`{row.name}" in text or f"--{row.name}" in text, row.name


def test_installed_torch_is_kept():
    """The CUDA build that the installation page names must satisfy the requirements, or pip would replace it."""
    named = re.search(r"torch(<[\d.]+)", (REPOSITORY / "docs/installation.md").read_text(encoding="utf-8"))[1]
    required = "".join(
        (REPOSITORY / name).read_text(encoding="utf-8") for name in ("requirements.txt", "pyproject.toml")
    )
    assert re.search(rf"torch>=[\d.]+,{re.escape(named)}\b", required)


def test_citation_is_valid_yaml_with_its_references():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["title"] and citation["message"]
    assert citation["authors"] == [{"name": "the contributors"}]
    assert {reference["authors"][0]["family-names"] for reference in citation["references"]} == {"Lan", "Rajpurkar"}

"""Windows, labels and scores of the real dev sets are the same as those of commit 1c928e6.

``preprocess.py`` makes the windows with the tokenizer of ALBERT-base; they are read from its cache and compared by
digests (``digest``). All figures are from 1c928e6 itself.
"""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from helpers.commands import run
from helpers.published import PUBLISHED

import evaluate_qa
import preprocess

# Longest window, tokens that neighbours share and longest question. The short ones cut most contexts and many
# questions, and leave answers out of reach.
LENGTHS = {
    "dev-v1.1": (384, 128, 64),
    "dev-v2.0": (384, 128, 64),
    "dev-v1.1 in short windows": (64, 8, 10),
}
COUNTS = {"dropped": 0, "repaired": 0, "dropped_because": {}, "problems": []}
SUMMARY = {
    "dev-v1.1": COUNTS
    | {
        "read": 10570,
        "examples": 10570,
        "unanswerable": 0,
        "features": 10808,
        "window_length": {"mean": 178.83, "p95": 312, "max": 384},
        "questions_cut": 0,
        "answers_out_of_reach": {},
        "label_f1": 99.636,
        "ceiling": {"exact_match": 99.51750236518448, "f1": 99.57842528944147},
    },
    "dev-v2.0": COUNTS
    | {
        "read": 11873,
        "examples": 11873,
        "unanswerable": 5945,
        "features": 12171,
        "window_length": {"mean": 183.33, "p95": 324, "max": 384},
        "questions_cut": 0,
        "answers_out_of_reach": {},
        "label_f1": 99.78,
        "ceiling": {
            "exact": 99.7894382211741,
            "f1": 99.8099292548884,
            "total": 11873,
            "HasAns_exact": 99.57827260458839,
            "HasAns_f1": 99.6193134351029,
            "HasAns_total": 5928,
            "NoAns_exact": 100.0,
            "NoAns_f1": 100.0,
            "NoAns_total": 5945,
        },
    },
    "dev-v1.1 in short windows": COUNTS
    | {
        "read": 10570,
        "examples": 10570,
        "unanswerable": 0,
        "features": 43126,
        "window_length": {"mean": 58.78, "p95": 64, "max": 64},
        "questions_cut": 7013,
        "answers_out_of_reach": {"longer than neighbouring windows share": 91},
        "label_f1": 99.6328,
        "ceiling": {"exact_match": 98.73226111636707, "f1": 98.80875869153707},
    },
}
DIGESTS = {
    "dev-v1.1": {
        "example_index": "e1db669d35c25c9eb780a48725b42ec4b3880b248932ce680571152bc8fca428",
        "input_ids": "9bac3914e344a2d4836ad948a5f57b91f5daf038b577bc4a9119e8a00970e958",
        "token_type_ids": "9803e4198707d882d4bf21d215b8acc5a7566f0fe694d3f2d136dbd67a576725",
        "offset_mapping": "cf6c115821dc7205db50d89724f764c45c2a213b93b3d429457485ac122b9cb0",
        "context_start": "87fc750ef857adae6caefd03a4702808ca495931c6e5d72003281a899a9ae958",
        "cls_index": "17e6366bb2f27942d7b3eaf8a879f5ecd8fbc96e0323f2b71928f11dad8cdc45",
        "start_positions": "9de1e210b8b3d59d3dfbe7145cd319516bf2e4f3027d04c9230c84cac2f5e128",
        "end_positions": "462936381f97da1f3d45e3530e63d839d20413be0d84fc7e9c24c12ac14856b9",
        "question_cut": "17e6366bb2f27942d7b3eaf8a879f5ecd8fbc96e0323f2b71928f11dad8cdc45",
        "length": "b2b40aabf99b4673ffa83275a081b372b68a50a49ca23d1f8314d892252cf513",
    },
    "dev-v2.0": {
        "example_index": "725286d37854cffb50b4bf7f988c5738769f384489401c78cc8ef3cde1300f62",
        "input_ids": "e45a595037f800786af01f73f583ed728d4b7d2e9608f1900acb1168d5d29c65",
        "token_type_ids": "4ee92f3318e72f6c3b3d15d72b8b74b4df41187ec9dc6a143684ddbb3e2a787c",
        "offset_mapping": "6b64ca429f7f5fceccbfc08f1f15e8d0854d87a864da5adc977c01a580bafd76",
        "context_start": "6887993e983dd509b7967fda8f716259c3c03e789e5aa9e533cc763ccbe402ca",
        "cls_index": "3794dc3973329f0fb0a551b1f928c400a91eb0e5e683ac8de56caa3356edba18",
        "start_positions": "1e916793c1e0fb3dd1d42f8832b32dbe81d1f417c5be737dad068cdf77241fea",
        "end_positions": "6273a5aa22f43bbfc8b915b5f9f6104f6aa993f2dcacbab45c3d9e27ab00d7b8",
        "question_cut": "3794dc3973329f0fb0a551b1f928c400a91eb0e5e683ac8de56caa3356edba18",
        "length": "5974279f37c5cfe80bda265f331fc250e4d68b3144e5e14749719fcbcfa5df33",
    },
    "dev-v1.1 in short windows": {
        "example_index": "05b9bf6d084d7bd194a8708211add3bf6fe93a3c58c801415fc70c4a76c99057",
        "input_ids": "abd6f25b9fe1d113438c82b144f9734b86b64b965620126074e124201cb512c6",
        "token_type_ids": "4eb949752c8437159ff63b9c1aee2e51e1171f73aa577a2b0858102dea8a1850",
        "offset_mapping": "778aebb40144ea3b6506b7112ca51a986451a5d7c9406fc4b6a7c211c4d09b92",
        "context_start": "22201408a5d489c32c8105a9cc011ea34db17f2c693b19dfaf11a39e64199858",
        "cls_index": "29edbde8fd0f4cda5de31ddc94562162d9a04bfddd5cb904e09b8012e9bf118b",
        "start_positions": "c51e4dfe711ee0c5170a0f6bad6f74d682245e2bd9e005d549c0a45e09206dc9",
        "end_positions": "ee8148b1e37f47e2f7487b72ee8ba464f6870659e66a5176866955af11185678",
        "question_cut": "b9db23dced6cbcdb3d835b1ca5861fff8c48f59968b1a79fc5679e271bea3a40",
        "length": "64da198ffd51ffc0be3c402f430a1fe18d5ec5ad83509ae6daac7e8ded6896e7",
    },
}


def digest(column: pa.ChunkedArray) -> str:
    """SHA-256 of a column's values in a form that does not depend on their type, their chunks or the file.

    For a column of numbers: the values in order, as little-endian int64. For a column of lists: first the length of
    every row's list, then the values of all lists, one after the other, each as little-endian int64; lists of pairs
    give both numbers of each pair in turn.
    """
    sha256 = hashlib.sha256()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = column.combine_chunks()
        sha256.update(lists.value_lengths().to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        column = lists.flatten()
        column = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    sha256.update(values.astype("<i8").tobytes())
    return sha256.hexdigest()


@pytest.fixture(scope="module", params=LENGTHS)
def preprocessed(request, shared, tmp_path_factory):
    """A key of ``LENGTHS``, the summary of these windows, and the windows from the cache."""
    folder, name = tmp_path_factory.mktemp("preprocessed"), request.param.split()[0]
    data = ("--validation_file", shared / f"data/squad/{name}.json.gz", "--cache_dir", folder / "cache")
    names = "--max_seq_length", "--doc_stride", "--max_query_length"
    lengths = [item for pair in zip(names, LENGTHS[request.param], strict=True) for item in pair]
    run(preprocess, "--tokenizer_name", shared / "albert-base-v2", *data, *lengths, "--output_dir", folder / "checked")
    (path,) = (folder / "cache/qa_windows").glob("*.arrow")
    summary = json.loads((folder / "checked/summary.json").read_text(encoding="utf-8"))
    return request.param, summary, Dataset.from_file(str(path))


def test_every_window_is_the_same(preprocessed):
    name, _, windows = preprocessed
    assert {column: digest(windows.data.table[column]) for column in DIGESTS[name]} == DIGESTS[name]


def test_counts_labels_and_ceiling_are_the_same(preprocessed):
    name, summary, _ = preprocessed
    now = summary["validation"]
    assert {key: now.get(key) for key in SUMMARY[name]} == SUMMARY[name]


def test_the_digest_does_not_depend_on_type_and_chunks():
    rows = [[[0, 1], [2, 3]], [], [[4, 5]]]
    pairs = pa.chunked_array([pa.array(rows, pa.list_(pa.list_(pa.int32(), 2)))])
    content = np.array([2, 0, 1, 0, 1, 2, 3, 4, 5], "<i8").tobytes()
    assert digest(pairs) == hashlib.sha256(content).hexdigest()
    lists = [pa.array(part, pa.list_(pa.int8())) for part in ([[1, 2]], [[3], []])]
    whole = pa.chunked_array([pa.array([[1, 2], [3], []], pa.list_(pa.int64()))])
    assert digest(pa.chunked_array(lists)) == digest(whole)


@pytest.mark.parametrize(("name", "examples"), [("squad", 10570), ("squad_v2", 11873)])
def test_published_systems_get_their_scores_from_the_command(shared, tmp_path, name, examples):
    data, system, scores = PUBLISHED[name]
    predictions = ("--predictions", shared / f"data/predictions/{system}.json.gz")
    files = ("--validation_file", shared / f"data/squad/{data}.json.gz", "--cache_dir", tmp_path / "cache")
    run(evaluate_qa, *predictions, *files, "--output_dir", tmp_path / "scored")
    assert json.loads((tmp_path / "scored/eval_results.json").read_text(encoding="utf-8")) == scores | {
        "examples": examples
    }

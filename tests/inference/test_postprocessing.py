"""Post-processing of the SQuAD 1.1 dev set, compared with plain loops: the same answers in less time."""

import collections
import gc
import time

import numpy as np
import pytest
from datasets import disable_progress_bars, enable_progress_bars
from helpers.windows import find_spans, null_scores
from transformers import AutoTokenizer

from qa.data.splits import load_splits
from qa.data.window_cache import load_windows
from qa.data.windows import WindowArrays
from qa.inference.nbest import read_answers
from qa.options.arguments import DataArguments

N_BEST, LONGEST = 20, 30


@pytest.fixture(scope="module")
def dev(shared, tmp_path_factory):
    """Examples, windows, and logits that are the labels plus noise."""
    args = DataArguments(validation_file=str(shared / "data/squad/dev-v1.1.json.gz"))
    tokenizer = AutoTokenizer.from_pretrained(shared / "albert-base-v2")
    examples = load_splits(args, ("validation",))["validation"].examples
    disable_progress_bars()
    windows = WindowArrays.from_dataset(
        load_windows(examples, tokenizer, args, str(tmp_path_factory.mktemp("cache")), "dev")
    )
    enable_progress_bars()
    rng, rows = np.random.default_rng(0), np.arange(len(windows))
    start, end = rng.standard_normal((2, len(windows), 384)).astype(np.float32)
    start[rows, windows.start_positions] += 4
    end[rows, windows.end_positions] += 4
    padding = np.arange(384) >= windows.length[:, None]
    start[padding] = end[padding] = -1e4  # the plain loops also read padding
    return examples["id"][:], examples["context"][:], windows, start, end


def as_features(windows: WindowArrays) -> dict[int, list[dict]]:
    """Return the windows of each example as dictionaries with offsets, None outside the context."""
    features = collections.defaultdict(list)
    for row, example in enumerate(windows.example_index.tolist()):
        first, last = windows.tokens[row], windows.tokens[row + 1]
        offsets = [None] * 384
        begin = int(windows.context_start[row])
        offsets[begin : begin + last - first] = [tuple(pair) for pair in windows.offset_mapping[first:last].tolist()]
        features[example].append({"row": row, "offset_mapping": offsets, "length": int(windows.length[row])})
    return features


def plain_answers(features, examples, ids, contexts, all_starts, all_ends, has_unanswerable):
    """Return the answers computed in plain loops over examples, windows, and start and end candidates."""
    predictions, nbest, odds = {}, {}, {}
    for index in examples:
        found, null = [], None
        for feature in features[index]:
            starts, ends = all_starts[feature["row"]], all_ends[feature["row"]]
            offsets = feature["offset_mapping"]
            score = starts[0] + ends[0]
            if null is None or score < null["score"]:
                null = {"offsets": (0, 0), "score": score, "start_logit": starts[0], "end_logit": ends[0]}
            for start in np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist():
                for end in np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist():
                    if start >= len(offsets) or end >= len(offsets) or offsets[start] is None or offsets[end] is None:
                        continue
                    if end < start or end - start + 1 > LONGEST:
                        continue
                    found.append(
                        {
                            "offsets": (offsets[start][0], offsets[end][1]),
                            "score": starts[start] + ends[end],
                            "start_logit": starts[start],
                            "end_logit": ends[end],
                        }
                    )
        if has_unanswerable:
            found.append(null)
        best = sorted(found, key=lambda item: item["score"], reverse=True)[:N_BEST]
        if has_unanswerable and not any(item["offsets"] == (0, 0) for item in best):
            best.append(null)
        for item in best:
            begin, end = item.pop("offsets")
            item["text"] = contexts[index][begin:end]
        scores = np.array([item.pop("score") for item in best])
        weights = np.exp(scores - np.max(scores))
        for item, probability in zip(best, weights / weights.sum(), strict=True):
            item["probability"] = probability
        answer = next(item for item in best if item["text"])
        predictions[ids[index]] = answer["text"]
        if has_unanswerable:
            odds[ids[index]] = float(
                null["start_logit"] + null["end_logit"] - answer["start_logit"] - answer["end_logit"]
            )
            predictions[ids[index]] = "" if odds[ids[index]] > 0 else answer["text"]
        nbest[ids[index]] = best
    return predictions, nbest, odds


def ours(dev, has_unanswerable):
    ids, contexts, windows, start, end = dev
    nulls = null_scores(start, end, windows, len(ids)) if has_unanswerable else None
    return read_answers(find_spans(start, end, windows, len(ids), N_BEST, LONGEST), ids, contexts, nulls, N_BEST, 0.0)


@pytest.mark.parametrize("has_unanswerable", [False, True])
def test_sample_of_500_matches_plain_loops(dev, has_unanswerable):
    ids, contexts, windows, start, end = dev
    start = start.copy()
    start[:, 0] += 3 * has_unanswerable  # so that about half of the answers are empty
    sample = np.random.default_rng(1).permutation(len(ids))[:500].tolist()
    answers = ours((ids, contexts, windows, start, end), has_unanswerable)
    features, lists = as_features(windows), answers.nbest
    predictions, nbest, odds = plain_answers(features, sample, ids, contexts, start, end, has_unanswerable)
    assert len(predictions) == 500 and len({bool(text) for text in predictions.values()}) == 1 + has_unanswerable
    for key, text in predictions.items():
        assert answers.predictions[key] == text
        assert [item["text"] for item in lists[key]] == [item["text"] for item in nbest[key]]
        for name in ("probability", "start_logit", "end_logit"):
            expected = [item[name] for item in nbest[key]]
            np.testing.assert_allclose([item[name] for item in lists[key]], expected, rtol=0, atol=1e-6)
        assert not has_unanswerable or answers.null_odds[key] == pytest.approx(odds[key], abs=1e-5)


def test_answers_are_many_times_faster_than_plain_loops(dev):
    """Both are timed in turn, three times each, and include n-best texts."""
    ids, contexts, windows, start, end = dev
    features, ratios = as_features(windows), []
    for _ in range(3):
        gc.collect()
        begun = time.perf_counter()
        answers = ours(dev, False)
        middle = time.perf_counter()
        plain = plain_answers(features, range(len(ids)), ids, contexts, start, end, False)
        ratios.append((time.perf_counter() - middle) / (middle - begun))
        del plain, answers
    print(f"plain loops over ours: {', '.join(f'{ratio:.1f}' for ratio in sorted(ratios))}")
    assert max(ratios) > 10, "measured: medians of 12.7 and 15.1 on a shared machine, which can stall one of the three"

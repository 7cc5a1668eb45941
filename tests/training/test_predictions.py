"""Predictions that an evaluation keeps of the logits."""

import numpy as np
import torch
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa.training.predictions import WindowPredictions, reduce_logits

START = torch.tensor([[0.5, 3, 1, 9], [2, 0, 1, 5.0]])
END = torch.tensor([[0.25, 1, 2, 9], [3, 0, 1, 4.0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


def reduced(cls_last: bool = False, keep_logits: bool = False) -> WindowPredictions:
    outputs = QuestionAnsweringModelOutput(start_logits=START, end_logits=END)
    return reduce_logits(outputs, MASK, torch.tensor([1, 3]), torch.tensor([2, 3]), 2, cls_last, keep_logits)


def test_the_best_tokens_and_the_logits_of_cls_are_kept():
    found = reduced()
    assert found.start_token.tolist() == [[1, 2], [3, 0]] and found.end_token.tolist() == [[2, 1], [3, 0]]
    assert found.start_logit.tolist() == [[3, 1], [5, 2]] and found.end_logit.tolist() == [[2, 1], [4, 3]]
    assert found.null.tolist() == [[0.5, 0.25], [2, 3]]
    assert reduced(cls_last=True).null.tolist() == [[1, 2], [5, 4]]
    assert found.loss.shape == (2,) and found.start_logits is None


def test_the_tuple_that_trainer_gathers_is_read_back():
    for keep_logits, count in ((False, 6), (True, 8)):
        values = reduced(keep_logits=keep_logits).to_tuple()
        assert len(values) == count and all(isinstance(value, torch.Tensor) for value in values)
        gathered = WindowPredictions.from_tuple(tuple(value.numpy() for value in values))
        turned = gathered[np.array([1, 0])]
        assert turned.candidates.start_token.tolist() == [[3, 0], [1, 2]]
        np.testing.assert_array_equal(turned.loss, gathered.loss[::-1])
        assert (turned.start_logits is None) != keep_logits
        if keep_logits:
            np.testing.assert_array_equal(turned.end_logits, END.numpy()[::-1])

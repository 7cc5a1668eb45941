"""What a model demands of its batches, and whether padding changes its logits.

An attention mask should hide padding, but some models have none (FNet), and others mix neighbouring tokens whatever it
says: by convolution (ConvBERT), pooling (Funnel) or hashing (Reformer). The score of a window would then depend on the
other windows of its batch.
"""

import functools
import inspect
import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from qa.data.make_windows import tokenize_pairs
from qa.data.tokenized_text import cut_questions
from qa.data.windows import WindowSettings
from qa.model.batching import Collator, round_up
from qa.model.device_errors import is_device_error
from qa.model.random_state import fork_rng
from qa.model.unpadded import replace_forward, run_unpadded
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line

QUESTION, CONTEXT = "Who built it?", "Ann Berg built the bridge in 1931, and her son the tower beside it."
WORDS = 2, 5, 14  # of the context, in the windows that are compared
QUESTION_TOKENS = 4  # at most: the smallest windows need room for the context
ROUNDING = 1_000  # times the precision of the largest logit; batches of other shapes differ by 1 to 100 of these units
LEAK = 10  # the same for batches of one shape, in which masked tokens change nothing
MASKED = 1e4  # BigBird and Splinter give the question's tokens logits of -1e6 and less


def width_multiple(config: PretrainedConfig) -> int:
    """Return the number of tokens of which the length of every batch must be a multiple."""
    if config.model_type == "nystromformer" and config.num_landmarks != config.segment_means_seq_len:
        return config.segment_means_seq_len
    if config.model_type == "reformer":
        if config.axial_pos_embds:
            return math.prod(config.axial_pos_shape)
        return math.lcm(*(getattr(config, f"{kind}_attn_chunk_length") for kind in set(config.attn_layers)))
    return 1


def adapt_mask(model: PreTrainedModel) -> None:
    """Give a Nyströmformer with landmarks the mask (B, 1, 1, L); transformers makes (B, 1, L, L), and it fails."""
    kind = type(model)
    if model.config.model_type != "nystromformer" or width_multiple(model.config) == 1 or hasattr(kind, "adapts_mask"):
        return

    @functools.wraps(kind.forward)
    def forward(self, *, attention_mask: torch.Tensor, **inputs):
        added = torch.zeros_like(attention_mask, dtype=self.dtype)
        added = added.masked_fill(attention_mask == 0, torch.finfo(self.dtype).min)
        return kind.forward(self, attention_mask=added[:, None, None, :], **inputs)

    replace_forward(model, forward, adapts_mask=True)


def takes_token_types(model: PreTrainedModel) -> bool:
    """Return whether the model uses token types to tell question from context; some tokenizers do not return them."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 2) >= 2


def make_collator(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, longest: int, sizes: Sequence[int] = ()
) -> Collator:
    """Return the collator of a model's batches, after trying the model on a question and its context.

    A model whose logits change with padding is made to run without it, which is reported.

    Args:
        longest: tokens of the longest window. sizes: as in ``Collator``.

    Raises:
        UserError: the model does not run, or its logits are not finite.
    """
    # GPT-2 and other decoders look up token types among the words; their tokenizers have no CLS token.
    types = tokenizer.cls_token_id is not None or hasattr(model.config, "type_vocab_size")
    types = types and takes_token_types(model)
    multiple = width_multiple(model.config)
    adapt_mask(model)
    probe, training = Collator(tokenizer.pad_token_id, types, multiple=multiple), model.training
    with torch.no_grad(), fork_rng(model.device):
        model.eval()
        unpadded = padding_changes_logits(model, probe_windows(tokenizer, longest), probe)
        model.train(training)
    if (unpadded or is_sparse(model.config, longest)) and not hasattr(model, "runs_unpadded"):
        run_unpadded(model, multiple)
        warn(
            f"note: padding changes the logits of a {model.config.model_type} model: windows are run without padding,"
            " in groups of one length"
        )
    return Collator(tokenizer.pad_token_id, types, sizes, multiple)


def probe_windows(tokenizer: PreTrainedTokenizerFast, longest: int) -> list[dict[str, np.ndarray]]:
    """Return windows of one question and contexts of different lengths, as training makes them; the longest is last."""
    room = longest - tokenizer.num_special_tokens_to_add(pair=True)
    (question,), _, _ = cut_questions([QUESTION], tokenizer, min(QUESTION_TOKENS, room // 2))
    contexts = [" ".join(CONTEXT.split()[:count]) for count in WORDS]
    settings = WindowSettings(longest, doc_stride=0, first_window_only=True)
    return tokenize_pairs([question] * len(contexts), contexts, tokenizer, settings).rows()


def try_forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the start and end logits (B, L, 2) of a batch, so that a model that does not work fails here.

    Raises:
        UserError: the model fails, or its logits are not finite.
        RuntimeError: of the device, as ``is_device_error`` recognizes it.
    """
    name, real = model.name_or_path, batch["attention_mask"] > 0
    try:
        output = model(**{key: value.to(model.device) for key, value in batch.items()})
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).cpu()
        finite = bool(logits[real].isfinite().all())
    except Exception as error:  # models check their inputs in many ways
        if is_device_error(error):
            raise
        raise UserError(f"model {name} does not run on a question and its context: {one_line(error)}") from error
    if not finite:
        raise UserError(f"model {name}: its logits are not finite: config.json and weights do not match")
    return logits


def is_sparse(config: PretrainedConfig, longest: int) -> bool:
    """Return whether some windows get BigBird's sparse attention, which depends on where a batch ends."""
    if getattr(config, "attention_type", None) != "block_sparse":
        return False
    return longest > (5 + 2 * config.num_random_blocks) * config.block_size


def padding_changes_logits(model: PreTrainedModel, rows: list[dict[str, np.ndarray]], collator: Collator) -> bool:
    """Return whether the logits of a window alone differ from those in a batch, where it is padded.

    They also differ by rounding, as the products have other shapes. A difference that may be rounding counts if other
    tokens in the padding change the logits, too, in a batch of the same shape.
    """
    batch = collator(rows)
    padded = try_forward(model, batch)
    lengths = [len(row["input_ids"]) for row in rows]
    own = torch.arange(padded.shape[1]) < torch.tensor([[round_up(length, collator.multiple)] for length in lengths])
    word = batch["input_ids"][-1, lengths[-1] // 2]
    filled = try_forward(model, batch | {"input_ids": torch.where(own, batch["input_ids"], word)})
    alone = padded.clone()
    for place, row in enumerate(rows[:-1]):
        alone[place, : lengths[place]] = try_forward(model, collator([row]))[0, : lengths[place]]

    compared = (batch["attention_mask"] > 0) & (padded.abs() < MASKED).all(dim=-1)
    if not compared.any():
        return False
    unit = torch.finfo(padded.dtype).eps * padded[compared].abs().max()
    change, leak = ((other - padded)[compared].abs().max() for other in (alone, filled))
    return bool(change > ROUNDING * unit or (change > LEAK * unit and leak > LEAK * unit))

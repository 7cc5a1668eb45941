"""Question-answering classes of decoders whose weights have other names than those of the language model.

Llama, Qwen and others are published as language models, with weights named ``model.layers...``; their classes for
question answering name the same weights ``transformer.layers...``, and transformers would leave them random.
"""

from typing import Any

from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedModel

PUBLISHED = r"^model\."


def key_mapping(config: PretrainedConfig) -> dict[str, str] | None:
    """Return the argument of ``from_pretrained`` that renames a language model's weights; None if none differ."""
    kind = AutoModelForQuestionAnswering._model_mapping.get(type(config), None)
    return {PUBLISHED: "transformer."} if getattr(kind, "base_model_prefix", "") == "transformer" else None


def save_under_own_names(model: PreTrainedModel) -> None:
    """Undo that ``save_pretrained`` renames the weights back: a checkpoint has the names of its own class."""
    conversions: list[Any] = getattr(model, "_weight_conversions", None) or []
    kept: Any = [each for each in conversions if PUBLISHED not in each.source_patterns]
    model._weight_conversions = kept

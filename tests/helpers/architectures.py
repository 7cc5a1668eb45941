"""A tiny random checkpoint with a fast tokenizer for every architecture that has a question-answering head."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AlbertTokenizer,
    AutoModelForQuestionAnswering,
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    XLMRobertaTokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from qa.data.demo import make_questions

ARCHITECTURES = sorted(MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES)
CHOSEN = (  # for their differences, which the table in docs/architectures.md shows
    *("albert", "bart", "big_bird", "convbert", "deberta-v2", "fnet", "funnel", "gpt2"),
    *("llama", "longformer", "mixtral", "nystromformer", "reformer", "roberta", "t5", "xlnet"),
)
VOCABULARY, POSITIONS, WIDTH = 400, 256, 32

SIZES = {  # set where a configuration has such a field
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "intra_bottleneck_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_dim"), 64),
    **dict.fromkeys(("n_inner", "d_inner", "ffn_hidden_size", "feed_forward_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"), POSITIONS),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), POSITIONS),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_size"), WIDTH // 2),
}
DETAILS: dict[str, dict[str, Any]] = {  # None: leave the field out
    "big_bird": {"block_size": 8, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 8, "num_random_blocks": 1},
    "canine": {"num_hash_buckets": POSITIONS, "local_transformer_stride": 16},
    "falcon": {"head_dim": None},
    "funnel": {"num_hidden_layers": None, "block_sizes": [1, 1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 8},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "led": {"attention_window": [16, 16]},
    "lilt": {"hidden_size": 24},
    "longformer": {"attention_window": [16, 16]},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "markuplm": {"xpath_unit_hidden_size": 4, "max_xpath_tag_unit_embeddings": 256},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 128},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24], "attn_layers": ["local", "lsh"]}
    | {"local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
}
STAND_INS: dict[str, type] = {  # where the architecture's own tokenizer is not fast, or has no class of its own
    **dict.fromkeys(("canine", "flaubert", "modernbert", "roc_bert", "roformer", "ultrabert", "xlm"), BertTokenizer),
    **dict.fromkeys(("bigbird_pegasus", "umt5"), T5Tokenizer),
    **dict.fromkeys(("bloom", "falcon"), GPT2Tokenizer),
    "nystromformer": AlbertTokenizer,
    "xlm-roberta-xl": XLMRobertaTokenizer,
}
TOKENIZER_OPTIONS = {"markuplm": {"tags_dict": {"p": 0}}}


@functools.cache
def texts() -> list[str]:
    """Return questions and contexts of the demo."""
    paragraphs = [p for article in make_questions(0)["train.json"]["data"][:80] for p in article["paragraphs"]]
    return [text for p in paragraphs for text in (p["context"], *(qa["question"] for qa in p["qas"]))]


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the architecture's own class on the demo's text, or of a similar one if that is not fast."""
    own = tokenizer_class_from_name(TOKENIZER_MAPPING_NAMES.get(kind) or "")
    fast = isinstance(own, type) and issubclass(own, PreTrainedTokenizerFast) and own is not PreTrainedTokenizerFast
    start = (STAND_INS.get(kind) or (own if fast else LlamaTokenizer))(**TOKENIZER_OPTIONS.get(kind, {}))
    if isinstance(start, LlamaTokenizer):  # pieces of words, as SentencePiece learns them
        start.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = start.train_new_from_iterator(texts(), VOCABULARY, show_progress=False)
    tokenizer.model_max_length = POSITIONS
    return tokenizer


def make_config(kind: str, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """Return a configuration of a tiny model with the ids of the tokenizer's special tokens."""
    default = CONFIG_MAPPING[kind]()
    wanted = {name: value for name, value in SIZES.items() if getattr(default, name, None) is not None}
    wanted |= {"vocab_size": len(tokenizer)} | DETAILS.get(kind, {})
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = {"pad_token_id": pad, "pad_index": pad, "decoder_start_token_id": pad if default.is_encoder_decoder else None}
    ids |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "sep_token_id")}
    if kind == "splinter":
        ids["question_token_id"] = tokenizer.convert_tokens_to_ids("[QUESTION]")
    wanted |= {name: value for name, value in ids.items() if name.startswith("decoder") or hasattr(default, name)}
    config = CONFIG_MAPPING[kind](**{name: value for name, value in wanted.items() if value is not None})
    config.num_labels = 2
    return config


def build(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write a tiny checkpoint with random weights and its tokenizer."""
    tokenizer = tokenizer or make_tokenizer(kind)
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(make_config(kind, tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """Write a few questions of the demo as train.json and dev.json."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = make_questions(0)
    for source, name, articles in (("train.json", "train.json", 14), ("validation.json", "dev.json", 8)):
        data = questions[source] | {"data": questions[source]["data"][:articles]}
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder

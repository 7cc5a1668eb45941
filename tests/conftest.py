"""Small tokenizers, models and data, made here; nothing is downloaded."""

import gzip
import json
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_DISABLE_XET"] = "1"  # read when huggingface_hub is imported; tests/hub_server.py knows LFS only

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AlbertConfig, PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"

TEXTS = [
    "The Vindel river rises in the north… and flows past the town of Ørby, where 1,204 people lived in 1873.",
    '  Zoë Àrnadóttir  said: "It\'s late" at 5\u202fpm, and left for São Tomé 🙂 by the night-train.',
    "Mira Talven was born in Sollen in 1931. She built the first bridge over the Vindel river in 1957.",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("the SQuAD data beside the repository (../shared) are not here")
    return SHARED


def train(tokenizer: Tokenizer, trainer) -> Tokenizer:
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def bert() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    train(tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def roberta() -> PreTrainedTokenizerFast:
    """Two separators, bytes as characters, offsets that begin on the space before a word."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def unigram(special: list[str]) -> Tokenizer:
    """Sentencepiece-like: NFKC, words that carry the space before them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return train(tokenizer, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>"))


def deberta() -> PreTrainedTokenizerFast:
    tokenizer = unigram(["[PAD]", "<unk>", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def xlnet() -> PreTrainedTokenizerFast:
    """The context first, CLS last, padding on the left."""
    tokenizer = unigram(["<pad>", "<unk>", "<cls>", "<sep>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <sep> <cls>:2", pair="$A <sep> $B:1 <sep>:1 <cls>:2", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, padding_side="left", **names)


FAMILIES = {"bert": bert, "roberta": roberta, "deberta": deberta, "xlnet": xlnet}


@pytest.fixture(scope="session", params=FAMILIES)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return FAMILIES[request.param]()


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return bert()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, bert_tokenizer) -> Path:
    """A folder with a small tokenizer and ALBERT configuration, no weights."""
    folder = tmp_path_factory.mktemp("tiny")
    bert_tokenizer.save_pretrained(folder)
    AlbertConfig(
        vocab_size=len(bert_tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        hidden_act="gelu_new",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)
    return folder


def squad(questions: list[tuple[str, str, str]], **more) -> dict:
    """Nested SQuAD JSON from (context, question, answer); an empty answer means none."""
    paragraphs = []
    for number, (context, question, answer) in enumerate(questions):
        answers = [{"text": answer, "answer_start": context.index(answer)}] if answer else []
        qa = {"id": f"q{number}", "question": question, "answers": answers} | more
        paragraphs.append({"context": context, "qas": [qa]})
    return {"version": "1.1", "data": [{"title": "made up", "paragraphs": paragraphs}]}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder with train.json and dev.json.gz: who was born where, in one sentence."""
    names = ["Mira", "Talven", "Zoë", "Vindel", "Sollen", "Ørby", "Tomé", "Arna"]
    rows = [
        (f"{name} was born in {place} in 19{i}{j}.", f"Where was {name} born?", place)
        for i, name in enumerate(names)
        for j, place in enumerate(names)
        if i != j
    ]
    folder = tmp_path_factory.mktemp("data")
    (folder / "train.json").write_text(json.dumps(squad(rows[:40])), encoding="utf-8")
    with gzip.open(folder / "dev.json.gz", "wt", encoding="utf-8") as file:
        json.dump(squad(rows[40:]), file)
    return folder

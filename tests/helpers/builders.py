"""Small tokenizers, models and data, built without downloads."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEXTS = [
    "The Vindel river rises in the north… and flows past the town of Ørby, where 1,204 people lived in 1873.",
    '  Zoë Àrnadóttir  said: "It\'s late" at 5\u202fpm, and left for São Tomé 🙂 by the night-train.',
    "Mira Talven was born in Sollen in 1931. She built the first bridge over the Vindel river in 1957.",
]


def pieces(tokenizer: Tokenizer, continuation: str = "") -> list[str]:
    """Return a vocabulary of TEXTS: characters, and the first two, the first six and the other letters of words.

    The trainers of WordPiece and Unigram find another vocabulary in every process.

    Args:
        continuation: the mark of a piece that does not start a word.
    """
    normalized = (tokenizer.normalizer.normalize_str(text) for text in TEXTS)
    words = {word for text in normalized for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    starts = {word[:size] for word in words for size in (1, 2, 6)}
    ends = {word[6:] for word in words if len(word) > 6} | {character for word in words for character in word}
    return sorted(starts | {continuation + end for end in ends})


def bert() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece())
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocabulary = special + pieces(tokenizer, "##")
    tokenizer.model = models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def roberta() -> PreTrainedTokenizerFast:
    """Byte-level, with two separators and offsets that include the space before a word."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def unigram(special: list[str]) -> Tokenizer:
    """Like SentencePiece: NFKC, and words that include the space before them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    scores = [(piece, -1.0) for piece in special + pieces(tokenizer)]  # so that the fewest pieces win
    tokenizer.model = models.Unigram(scores, unk_id=special.index("<unk>"))
    tokenizer.add_special_tokens(special)
    return tokenizer


def deberta() -> PreTrainedTokenizerFast:
    tokenizer = unigram(["[PAD]", "<unk>", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def xlnet() -> PreTrainedTokenizerFast:
    """Context first, CLS last, padding on the left."""
    tokenizer = unigram(["<pad>", "<unk>", "<cls>", "<sep>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <sep> <cls>:2", pair="$A <sep> $B:1 <sep>:1 <cls>:2", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, padding_side="left", **names)


def llama() -> PreTrainedTokenizerFast:
    """Spaces become marks, with an additional one at the start, and a text is one word; byte fallback."""
    special, byte_tokens = ["<unk>", "<s>", "</s>", "<pad>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=500, special_tokens=special + byte_tokens))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][: len(special)]  # byte tokens are not special tokens
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


FAMILIES = {"bert": bert, "roberta": roberta, "deberta": deberta, "xlnet": xlnet, "llama": llama}


def squad(questions: list[tuple[str, str, str]], **more) -> dict:
    """Nested SQuAD JSON from (context, question, answer); an empty answer means none."""
    paragraphs = []
    for number, (context, question, answer) in enumerate(questions):
        answers = [{"text": answer, "answer_start": context.index(answer)}] if answer else []
        qa = {"id": f"q{number}", "question": question, "answers": answers} | more
        paragraphs.append({"context": context, "qas": [qa]})
    return {"version": "1.1", "data": [{"title": "made up", "paragraphs": paragraphs}]}

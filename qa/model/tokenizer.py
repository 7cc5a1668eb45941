"""Load and save fast tokenizers, and check that one belongs to a model."""

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qa.io.files import failed_to_write
from qa.model.loading import announce, hub_options, loading
from qa.options.arguments import ModelArguments
from qa.runtime.errors import UserError, one_line

NULL_ANSWERS_ADVICE = "give --version_2_with_negative false and questions that have an answer, or another model"
MIN_VOCABULARY_SHARE = 0.75  # of the model's vocabulary that its tokenizer has; some models pad theirs


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of ``tokenizer_name``, or else that of the model.

    Raises:
        UserError: it cannot be loaded, or lacks what question answering needs.
    """
    name = args.tokenizer_name or args.config_name or args.model_name_or_path
    if not name:
        raise UserError("no model given: set model_name_or_path, or config_name for random weights")
    announce(name)
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **hub_options(args))
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 10:
        raise UserError(f"tokenizer {name} has no vocabulary: its files are missing; give --tokenizer_name")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"tokenizer {name} has no fast version, which is needed for offsets")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"tokenizer {name} has no padding token, and no end-of-text token to use instead")
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; masked, any token will do
    if not isinstance(tokenizer.model_max_length, (int, float)) or not tokenizer.model_max_length >= 1:
        raise UserError(f"tokenizer {name} has a model_max_length of {tokenizer.model_max_length!r:.40}: fix its files")
    check_takes_text(tokenizer, name)
    return tokenizer


def check_takes_text(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError for a tokenizer of documents, which takes words with their boxes or the nodes of a web page."""
    question, context = ["Who wrote it?"], ["Ann did it."]
    try:
        (encoding,) = tokenizer(question, context).encodings or []
        ends = [end for part, (_, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True) if part == 1]
        reason = "" if max(ends, default=0) > len("Ann") else "its offsets are those of words, not of the text"
    except Exception as error:
        reason = one_line(error)
    if reason:
        raise UserError(f"tokenizer {name} ({type(tokenizer).__name__}) does not take a question and a text: {reason}")


def check_null_answers(tokenizer: PreTrainedTokenizerBase, advice: str) -> None:
    """Raise UserError with ``advice`` for a tokenizer without a CLS token, at which a null answer is predicted."""
    if tokenizer.cls_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path or 'given'} has no CLS token, where a model predicts that a question"
            f" has no answer: {advice}"
        )


def check_fit(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Check that a tokenizer and a model belong together.

    Raises:
        UserError: the model has no vocabulary, or the tokenizer has ids that the model lacks, or far fewer than it.
    """
    name = tokenizer.name_or_path or "given"
    if not getattr(config, "vocab_size", None):
        raise UserError(
            f"a {config.model_type} model does not take text: give an encoder such as albert/albert-base-v2"
        )
    with loading("tokenizer", name):
        known = max(tokenizer.get_vocab().values(), default=0)
        pair = max(tokenizer("Who wrote it?", "Ann \U0010fffd 1931.")["input_ids"])  # including special tokens
    if max(known, pair) >= config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has {max(known, pair) + 1} tokens and the model {config.vocab_size}: they do not"
            " match; give the model's own tokenizer"
        )
    if known + 1 < MIN_VOCABULARY_SHARE * config.vocab_size:
        raise UserError(
            f"the tokenizer {name} has only {known + 1} of the model's {config.vocab_size} tokens: they do not match;"
            " give the model's own tokenizer"
        )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Save a tokenizer without the truncation and padding that its last call left in it.

    Raises:
        OSError: it cannot be written.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers raises a bare Exception
        if not failed_to_write(error):
            raise
        raise OSError(one_line(error)) from error

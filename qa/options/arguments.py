"""The options of every command, as dataclasses, and the rules that their values keep."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import TrainingArguments

from qa.runtime.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

# Names that people type from older releases and other scripts, and what to write now.
RENAMED = {
    "logging_dir": "is gone from transformers 5: TensorBoard logs go to OUTPUT_DIR/runs,"
    " or where the environment variable TENSORBOARD_LOGGING_DIR says",
    "group_by_length": "is gone from transformers 5: write train_sampling_strategy: group_by_length",
    "evaluation_strategy": "is called eval_strategy now",
    "warmup_ratio": "is gone from transformers 5: write warmup_steps (below 1 it is a share of all steps)",
    "no_cuda": "is called use_cpu now",
    "per_gpu_train_batch_size": "is called per_device_train_batch_size now",
    "per_gpu_eval_batch_size": "is called per_device_eval_batch_size now",
    "do_lower_case": "belongs to the tokenizer: choose an uncased or a cased checkpoint",
    "test_file": "is called validation_file here",
    "max_length": "is called max_seq_length here",
    "lr": "is called learning_rate",
    "epochs": "is called num_train_epochs",
    "batch_size": "is called per_device_train_batch_size",
    "use_auth_token": "is not needed: log in once with `hf auth login`",
    "hub_token": "is not needed, and a file is no place for it: log in once with `hf auth login`",
    "trust_remote_code": "is not supported: no code from a repository is ever run",
}

# Options of the Trainer that would be ignored here, or break the order of the windows in evaluation.
UNSUPPORTED = (
    "label_smoothing_factor",
    "prediction_loss_only",
    "batch_eval_metrics",
    "eval_do_concat_batches",
    "dataloader_drop_last",
    "label_names",
    "include_for_metrics",
    "auto_find_batch_size",
    "enable_jit_checkpoint",
)


# Options that take one value or several, and the columns that questions have.
LISTS = ("dataset_name", "dataset_config_name", "train_file", "columns", "max_train_samples_per_source")
COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")


def option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """Which encoder, and where it comes from."""

    _argument_group_name = "model"

    model_name_or_path: str | None = option(None, "Checkpoint to start from: a Hub id or a local folder.")
    config_name: str | None = option(
        None, "Start from random weights instead, with this configuration (a Hub id or a local folder)."
    )
    tokenizer_name: str | None = option(None, "Tokenizer, if it is not the one beside the model.")
    model_revision: str = option("main", "Branch, tag or commit of the model on the Hub.")
    cache_dir: str | None = option(None, "Where downloads and windows are cached (null: the Hugging Face cache).")


@dataclass
class DataArguments:
    """Which questions, how they are cut into windows, and how logits become answers."""

    _argument_group_name = "data"

    dataset_name: list[str] | None = option(
        None, "Dataset on the Hub in SQuAD format, such as rajpurkar/squad; of several, the first has the validation."
    )
    dataset_config_name: list[str] | None = option(
        None, "Configuration of that dataset, if it has several; of several datasets, one for each (null: none)."
    )
    train_file: list[str] | None = option(
        None,
        "Training questions, one file or several: SQuAD JSON (.json, .json.gz), or flat JSON, JSON lines, CSV,"
        " Parquet.",
    )
    validation_file: str | None = option(None, "Validation questions, in the same formats.")
    columns: list[str] | None = option(
        None, "Where the data's columns have other names: question=query context=passage, and so on."
    )
    demo_dir: str | None = option(None, "Write the made-up demo data, tokenizer and config to this folder first.")
    validation_split_percentage: int | None = option(
        None, "Hold out this share of the training questions (in percent, chosen by seed) for validation."
    )
    version_2_with_negative: bool | None = option(
        None, "Some questions have no answer, as in SQuAD 2.0 (null: see whether the data has any)."
    )
    max_seq_length: int = option(384, "Longest window in tokens: special tokens, question and context.")
    doc_stride: int = option(128, "Tokens of context that two neighbouring windows share.")
    max_query_length: int = option(64, "Questions are cut to this many tokens.")
    first_window_only: bool = option(False, "Keep only the first window of every question.")
    pad_to_max_length: bool = option(False, "Pad every window to max_seq_length, not to its batch's longest.")
    n_best_size: int = option(20, "Start and end candidates for each window, and answers kept for each question.")
    max_answer_length: int = option(30, "Longest answer in tokens.")
    null_score_diff_threshold: float = option(
        0.0, "SQuAD 2.0: no answer when the null score exceeds the best answer's by more than this."
    )
    max_train_samples: int | None = option(None, "Read only the first so many training questions.")
    max_train_samples_per_source: list[int] | None = option(
        None, "The same for each of several datasets or training files (0: all of it)."
    )
    max_eval_samples: int | None = option(None, "Read only the first so many validation questions.")
    max_dropped: float = option(0.05, "Train although up to this share of the questions had to be dropped.")
    strict: bool = option(False, "Stop at any problem in the data, also one that could be repaired.")
    preprocessing_num_workers: int | None = option(None, "Processes that tokenize (null: one, with threads).")
    overwrite_cache: bool = option(False, "Make the windows anew even if they are cached.")

    def __post_init__(self):
        for name in LISTS:
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, (str, int)) else value or None)
        caps, sources = self.max_train_samples_per_source, self.train_file or self.dataset_name
        if caps:
            require(len(caps) == len(sources or []), "max_train_samples_per_source", "needs a number for each source")
            require(min(caps) >= 0, "max_train_samples_per_source", "must not be negative")
        for pair in self.columns or []:
            ours, _, theirs = pair.partition("=")
            rule = f"{pair!r} must be one of {', '.join(COLUMNS)}, then =, then the name in the data"
            require(ours in COLUMNS and bool(theirs), "columns", rule)
        for name in ("max_seq_length", "max_query_length", "n_best_size", "max_answer_length"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.n_best_size <= 1000, "n_best_size", "must be at most 1000")
        require(self.doc_stride >= 0, "doc_stride", "must not be negative")
        for name in ("max_train_samples", "max_eval_samples", "preprocessing_num_workers"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1")
        share = self.validation_split_percentage
        require(share is None or 1 <= share <= 99, "validation_split_percentage", "must be from 1 to 99")
        require(0 <= self.max_dropped <= 1, "max_dropped", "must be from 0 to 1")
        require(math.isfinite(self.null_score_diff_threshold), "null_score_diff_threshold", "must be a finite number")


@dataclass
class TrainingOptions(TrainingArguments):
    """Every field of ``TrainingArguments``, and what keeps a run safe, in one group of ``--help``."""

    _argument_group_name = "training, evaluation and saving (TrainingArguments of transformers)"

    recovery_minutes: float = option(
        5.0, "Minutes between recovery checkpoints, of which the newest is kept until a regular one (0: none)."
    )
    overwrite_output_dir: bool = option(False, "Delete the run that output_dir holds, and start anew.")
    plan: bool = option(False, "Print what the run will do and need on a GPU, and stop before it is trained.")
    gpu_memory_gb: str | None = option(
        None, "Find batches that fit a GPU of so many GB, or of the size found here (auto); the effective batch stays."
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "What a GPU multiplies matrices in (auto: as fp16 or bf16 say, else bf16 if it can, else fp16)."
    )
    fused_gelu: bool = option(True, "Compute the activation gelu_new in one kernel: the same function.")
    attn_implementation: str | None = option(None, "sdpa or eager (null: sdpa where the model has it).")
    dropout: float | None = option(None, "Dropout everywhere in the model (null: as its configuration says).")
    stop_if_failed: bool = option(True, "Stop when the loss is not finite, or no better than a guess after warm-up.")
    logging_nan_inf_filter: bool = option(False, "Leave losses that are not finite out of the log; waits for the GPU.")


@dataclass
class EvaluationArguments:
    """What to score, if not a model; and what to do with the result."""

    _argument_group_name = "evaluation"

    predictions: str | None = option(None, "Score this predictions file instead of a model: JSON, id to text.")
    null_odds: str | None = option(
        None,
        "With --predictions of SQuAD 2.0: JSON, id to the odds of no answer, for the best thresholds; as in the"
        " official script odds over 1 count as no answer.",
    )
    logits: str | None = option(None, "Repeat post-processing of these logits instead of running a model (.npz).")
    save_logits: str | None = option(None, "Write the logits to this .npz file, for --logits later.")
    compare: str | None = option(None, "Folder of another evaluation of the same questions, to compare with.")
    save_best_threshold: bool = option(
        False, "SQuAD 2.0: keep the threshold that is best for F1 with the model, for ask.py and later evaluations."
    )


@dataclass
class AskArguments:
    """The questions, and the text that holds their answers."""

    _argument_group_name = "ask"

    question: str | None = option(None, "The question (null: read questions from the terminal, one a line).")
    context: str | None = option(None, "The text that holds the answer.")
    context_file: str | None = option(None, "Read the text from this UTF-8 file instead; any length.")
    input: str | None = option(
        None, "Answer all questions of this file: JSON lines, CSV, Parquet or SQuAD JSON, with `question` and, unless"
        " a text is given for all, `context`.",
    )  # fmt: skip
    output: str | None = option(None, "Write their answers to this file, as JSON lines in the same order.")
    top_k: int = option(1, "How many answers, the likeliest first.")
    handle_impossible_answer: bool | None = option(
        None, "Whether no answer may be the answer (null: as the model was trained)."
    )
    align_to_words: bool = option(True, "Widen answers to whole words.")
    per_device_eval_batch_size: int = option(16, "Windows computed at once.")
    device: str | None = option(None, "Where to compute, such as cpu or cuda:1 (null: a GPU if there is one).")

    def __post_init__(self):
        for name in ("top_k", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1")


@dataclass
class PublishArguments:
    """Which model, and where it goes."""

    _argument_group_name = "publish"

    model_dir: str | None = option(None, "Output folder of train.py.")
    hub_model_id: str | None = option(None, "Name on the Hub: USER/NAME, ORGANIZATION/NAME, or NAME for one's own.")
    private: bool = option(False, "Make a private repository.")
    revision: str | None = option(None, "Branch to send it to, made if there is none (null: main).")
    tag: str | None = option(None, "Tag for this version (null: run- and the time when the run finished).")


def require(condition: bool, name: str, rule: str) -> None:
    if not condition:
        raise UserError(f"{name} {rule}")


def is_memory(value: str | None) -> bool:
    try:
        return value in (None, "auto") or 1 < float(value) < float("inf")
    except ValueError:
        return False


def check_training(args: TrainingArguments) -> None:
    """Values of the right type that make no sense, which ``TrainingArguments`` lets through."""
    positive = ("learning_rate", "num_train_epochs", "adam_epsilon")
    for name in positive:
        value = getattr(args, name)
        require(0 < value < float("inf"), name, f"must be a finite number above 0, not {value}")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        require(getattr(args, name) >= 1, name, f"must be at least 1, not {getattr(args, name)}")
    for name in ("seed", "dataloader_num_workers"):
        require(getattr(args, name) >= 0, name, "must not be negative")
    require(is_memory(args.gpu_memory_gb), "gpu_memory_gb", "must be auto or a number above 1")
    require(args.dropout is None or 0 <= args.dropout < 1, "dropout", "must be at least 0 and below 1")
    require(bool(args.output_dir), "output_dir", "must not be empty")
    require(0 <= args.recovery_minutes < float("inf"), "recovery_minutes", "must not be negative")
    plain, default = args.to_dict(), TrainingArguments("").to_dict()
    for name in UNSUPPORTED:
        require(plain[name] == default[name], name, "is not supported here: leave it out")
    require(0 <= args.weight_decay < float("inf"), "weight_decay", "must not be negative")
    for name in ("adam_beta1", "adam_beta2"):
        require(0 <= getattr(args, name) < 1, name, "must be at least 0 and below 1")


def as_settings(*parsed) -> dict:
    """The resolved options as plain values for a YAML file that ``--config`` reads back.

    Of ``TrainingArguments`` only what differs from its defaults; never a token.
    """
    settings: dict = {}
    for arguments in parsed:
        if isinstance(arguments, TrainingArguments):
            default = type(arguments)(output_dir="").to_dict()
            names = {item.name for item in dataclasses.fields(arguments) if item.init}
            names -= {*RENAMED, "resume_from_checkpoint", "overwrite_output_dir", "local_rank", "plan"}
            for name, value in arguments.to_dict().items():
                if name in names and value != default[name] and not name.startswith("gradient_checkpointing"):
                    settings[name] = value
            if settings.pop("bf16", False):  # an error where there is no GPU for it, which precision is not
                settings["precision"] = "bf16"
        else:
            values = dataclasses.asdict(arguments)
            for name in LISTS:
                if isinstance(values.get(name), list) and len(values[name]) == 1:
                    values[name] = values[name][0]
            settings.update(values)
    return settings

"""Our own options as dataclasses, whose fields are rows of the table, and the rules for their values."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from qa.options.option import Precision, option, require, takes_list

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = ("id", "title", "context", "question", "answers", "answer_start", "is_impossible")


@dataclass
class ModelArguments:
    """The model, its tokenizer, and where to load them from."""

    model_name_or_path: str | None = option(
        None,
        "Hub id or folder. The model to start from.",
        "model",
        common=True,
        published="if_set",
        belongs_to="run",
        excludes=("config_name",),
    )
    config_name: str | None = option(
        None,
        "Start from random weights with this configuration, a Hub id or a local folder.",
        "model",
        belongs_to="run",
    )
    tokenizer_name: str | None = option(
        None,
        "Tokenizer, if not the model's.",
        "model",
        common=True,
        belongs_to="run",
        changes_result="unless_same_windows",
    )
    model_revision: str = option("main", "Branch, tag or commit of the model on the Hub.", "model", belongs_to="run")
    cache_dir: str | None = option(
        None,
        "Cache for downloads and windows. Null: the Hugging Face cache.",
        "model",
        common=True,
        belongs_to="run",
        changes_result="never",
        private=True,
    )


@dataclass
class DataArguments:
    """The data, how it is cut into windows, and how answers are chosen."""

    dataset_name: list[str] | None = option(
        None,
        "Dataset on the Hub, or several. In SQuAD format, such as rajpurkar/squad; the first is used for validation.",
        "data",
        common=True,
        published="if_set",
        changes_result="unless_same_windows",
        provides=("train", "validation"),
        excludes=("train_file", "validation_file"),
    )
    dataset_config_name: list[str] | None = option(
        None,
        "Configuration of the dataset. With several datasets, one for each (null: none).",
        "data",
        published="if_set",
        changes_result="unless_same_windows",
        belongs_to="sources",
    )
    train_file: list[str] | None = option(
        None,
        "Training questions, one file or several. SQuAD JSON (.json, .json.gz), flat JSON, JSON lines, CSV or Parquet.",
        "data",
        common=True,
        changes_result="unless_same_windows",
        provides=("train",),
        path=True,
    )
    validation_file: str | None = option(
        None,
        "Validation questions. The same formats.",
        "data",
        common=True,
        provides=("validation",),
        path=True,
    )
    columns: list[str] | None = option(
        None,
        "Column names, such as question=query. Needed if they differ from SQuAD's.",
        "data",
        common=True,
        published="if_set",
        changes_result="unless_same_windows",
        belongs_to="data",
    )
    demo_dir: str | None = option(
        None,
        "Write the synthetic demo data, tokenizer and configuration to this folder first.",
        "data",
        changes_result="never",
    )
    validation_split_percentage: int | None = option(
        None,
        "Percent of training data held out for validation. The questions are chosen by seed.",
        "data",
        common=True,
        published="if_set",
        excludes=("validation_file",),
    )
    version_2_with_negative: bool | None = option(
        None,
        "Some questions are unanswerable. As in SQuAD 2.0 (null: inferred from the data).",
        "data",
        common=True,
        published="if_set",
        belongs_to="data",
    )
    max_seq_length: int = option(
        384,
        "Maximum tokens per window. Includes special tokens, question and context.",
        "windows",
        common=True,
        published="if_set",
    )
    doc_stride: int = option(128, "Tokens shared by neighbouring windows.", "windows", common=True, published="if_set")
    max_query_length: int = option(64, "Truncate questions to this many tokens.", "windows", published="if_set")
    first_window_only: bool = option(
        False, "Keep only the first window of every question.", "windows", published="if_set"
    )
    pad_to_max_length: bool = option(
        False, "Pad every window to max_seq_length, not to the longest in its batch.", "windows", published="if_set"
    )
    n_best_size: int = option(
        20,
        "Answers kept per question. Also the start and end candidates per window.",
        "answers",
        common=True,
        published="if_set",
    )
    max_answer_length: int = option(30, "Maximum tokens per answer.", "answers", common=True, published="if_set")
    null_score_diff_threshold: float = option(
        0.0,
        "No-answer threshold. SQuAD 2.0: no answer if the null score exceeds the best span's score by more than this.",
        "answers",
        common=True,
        published="if_set",
    )
    max_train_samples: int | None = option(
        None,
        "Read at most this many training questions.",
        "data",
        common=True,
        published="if_set",
        belongs_to="data",
    )
    max_train_samples_per_source: list[int] | None = option(
        None,
        "The same for each of several datasets or training files (0: no limit).",
        "data",
        published="if_set",
        changes_result="unless_same_windows",
        belongs_to="sources",
    )
    max_eval_samples: int | None = option(
        None, "Read at most this many validation questions.", "data", common=True, published="if_set", belongs_to="data"
    )
    max_dropped: float = option(
        0.05, "Maximum share of questions that may be dropped. Training does not start above it.", "data"
    )
    strict: bool = option(
        False, "Fail on any problem in the data. Even on one that could be repaired.", "data", common=True
    )
    preprocessing_num_workers: int | None = option(
        None, "Number of tokenization processes (null: one, with threads).", "windows", changes_result="never"
    )
    overwrite_cache: bool = option(
        False, "Rebuild the windows even if they are cached.", "windows", changes_result="never"
    )

    def __post_init__(self):
        for item in dataclasses.fields(self):
            if takes_list(item.type):
                value = getattr(self, item.name)
                setattr(self, item.name, [value] if isinstance(value, (str, int)) else value or None)
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
class AskArguments:
    """The questions and their context."""

    question: str | None = option(
        None, "The question. Null: read questions from the terminal, one a line.", "ask", common=True
    )
    context: str | None = option(None, "The text to find the answer in.", "ask", common=True)
    context_file: str | None = option(None, "UTF-8 file with the text; - for standard input.", "ask", common=True)
    input: str | None = option(
        None,
        "Answer all questions of this file; - for standard input. JSON lines, CSV, Parquet or SQuAD JSON, with"
        " `question` and, unless there is one text for all, `context`; or lines of text, each a question.",
        "ask",
        common=True,
    )
    output: str | None = option(
        None, "File for the answers. CSV by its name, else JSON lines; null: standard output.", "ask", common=True
    )
    top_k: int = option(1, "Number of answers, most probable first.", "ask", common=True)
    handle_impossible_answer: bool | None = option(
        None, "Whether there may be no answer. Null: as the model was trained.", "ask", common=True
    )
    align_to_words: bool = option(True, "Extend answers to whole words.", "ask", common=True)
    per_device_eval_batch_size: int = option(
        16, "Windows per batch. Of the longest kind: shorter ones go more to a batch.", "ask", common=True
    )
    device: str | None = option(None, "cpu or cuda:1 (null: a GPU if available).", "ask", common=True)
    precision: Precision = option("auto", "auto, fp32, fp16 or bf16.", "ask", common=True)

    def __post_init__(self):
        for name in ("top_k", "per_device_eval_batch_size"):
            require(getattr(self, name) >= 1, name, "must be at least 1")


@dataclass
class EvaluationArguments:
    """What to score instead of a model, and what to do with the result."""

    predictions: str | None = option(
        None, "Score these predictions, not a model. JSON, id to text.", "evaluation", common=True
    )
    null_odds: str | None = option(
        None,
        "Null odds for --predictions. JSON, id to number, for SQuAD 2.0 and the best thresholds; as in the official"
        " script, odds above 1 count as no answer.",
        "evaluation",
        common=True,
    )
    logits: str | None = option(
        None, "Score these logits, not a model. An .npz file of --save_logits.", "evaluation", common=True
    )
    save_logits: str | None = option(None, "Write the logits to this .npz file.", "evaluation", common=True)
    compare: str | None = option(
        None,
        "Folder of another evaluation to compare with. It must have the same questions.",
        "evaluation",
        common=True,
    )
    save_best_threshold: bool = option(
        False,
        "Save the best F1 threshold with the model. SQuAD 2.0: ask.py and later evaluations use it.",
        "evaluation",
        common=True,
    )


@dataclass
class PublishArguments:
    """Which model to publish, and to which repository."""

    model_dir: str | None = option(None, "Output folder of train.py.", "publish", common=True)
    hub_model_id: str | None = option(None, "USER/NAME, ORGANIZATION/NAME, or NAME.", "publish", common=True)
    private: bool = option(False, "Create a private repository.", "publish", common=True)
    revision: str | None = option(None, "Branch, created if missing (null: main).", "publish", common=True)
    tag: str | None = option(
        None, "Tag of this version. Null: run- and the time at which the run finished.", "publish", common=True
    )
    dry_run: bool = option(False, "Show what would be uploaded; send nothing.", "publish", common=True)


COMMAND_KINDS = EvaluationArguments, AskArguments, PublishArguments  # options of one command each

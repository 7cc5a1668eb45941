"""The tables of docs/from_run_qa.md agree with the options: what is there exists, and what is not is answered."""

import re

import pytest
from helpers.documents import REPOSITORY

from qa.options.arguments import DataArguments, ModelArguments
from qa.options.parser import ArgumentParser
from qa.options.table import OTHERS, RUN, TABLE
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

PAGE = (REPOSITORY / "docs/from_run_qa.md").read_text(encoding="utf-8")
RUN_QA = """
model_name_or_path config_name tokenizer_name cache_dir model_revision token use_auth_token trust_remote_code
dataset_name dataset_config_name train_file validation_file test_file overwrite_cache preprocessing_num_workers
max_seq_length pad_to_max_length max_train_samples max_eval_samples max_predict_samples version_2_with_negative
null_score_diff_threshold doc_stride n_best_size max_answer_length do_train do_eval do_predict output_dir
overwrite_output_dir resume_from_checkpoint
""".split()
NO_TRAINER = (
    "use_slow_tokenizer max_train_steps num_warmup_steps model_type checkpointing_steps with_tracking hub_token"
)
SEQ2SEQ = "use_fast_tokenizer context_column question_column answer_column val_max_answer_length predict_with_generate"
OTHER_EXAMPLES = [*NO_TRAINER.split(), *SEQ2SEQ.split(), "ignore_pad_token_for_loss", "generation_max_length"]
RELEASE_4 = """
per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir save_safetensors no_cuda use_mps_device
jit_mode_eval fp16_opt_level half_precision_backend tpu_num_cores tpu_metrics_debug past_index fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap adafactor group_by_length use_legacy_prediction_loop include_inputs_for_metrics
fp16_backend push_to_hub_model_id push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope
include_tokens_per_second evaluation_strategy
""".split()
STAGES = ("test_file", "max_predict_samples")  # answered before the other options are parsed: tests/commands


def rows(heading: str) -> dict[str, str]:
    """Return the options in the tables under a heading, and what is written for them here."""
    section = PAGE[PAGE.index(heading) :]
    section = section[: section.find("\n## ", 1)]
    found = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.M):
        cells = line.split(" | ")
        found |= {name: cells[-1] for name in re.findall(r"`(\w+)`", cells[0])}
    return found


TABLES = {
    "## Options of `run_qa.py`": RUN_QA,
    "## Options of the other examples": OTHER_EXAMPLES,
    "## `TrainingArguments` of transformers 4": RELEASE_4,
}


def parse(name: str) -> str:
    """Return "the same" if train.py has an option, in every spelling; else the error that it is answered with."""
    parser = ArgumentParser((ModelArguments, DataArguments, TrainingOptions))
    error = ""
    for value in ("true", "7", "text"):
        try:
            for words in ([f"--{name}", value], [f"--{name}={value}"], [f"--{name.replace('_', '-')}", value]):
                assert parser.parse_all(words).keys() == {name}
            return "the same"
        except UserError as wrong:
            error = error or str(wrong)
    return error


@pytest.mark.parametrize("heading", TABLES)
def test_every_option_of_the_examples_is_in_the_table(heading):
    assert set(TABLES[heading]) <= rows(heading).keys()


@pytest.mark.parametrize("name", [*RUN_QA, *OTHER_EXAMPLES, *RELEASE_4])
def test_options_are_taken_or_answered_as_documented(name):
    here = next(rows(heading)[name] for heading, names in TABLES.items() if name in names)
    outcome = parse(name)
    if "the same" in here or "above" in here:
        assert outcome == "the same"
        return
    assert "--help_all lists" not in outcome and outcome != "the same"
    written = re.findall(r"`--(\w+)", here)
    if written and "leave it out" not in here:
        assert any(option in outcome for option in written), outcome
    if "`hf auth login`" in here:
        assert "`hf auth login`" in outcome


def test_options_named_on_the_page_exist():
    real = {row.name for row in (*RUN, *OTHERS)} | {"config", "nproc_per_node"}
    old = {"test_file", *OTHER_EXAMPLES, *RELEASE_4}
    assert set(re.findall(r"--(\w+)", PAGE)) <= real
    same = [name for name, here in rows("## simpletransformers").items() if here.startswith("the same")]
    assert len(same) > 10 and set(same) <= real - old
    assert all(not TABLE[name].instead for name in same)

"""What we rely on in ``transformers.Trainer`` beyond its documentation.

If a new transformers fails here, read its trainer.py, adapt the method named in the message, then this test.
"""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import transformers
from transformers import Trainer, TrainingArguments

from qa.options.arguments import REPOSITORY
from qa.training.checkpoint_saving import CheckpointSaving
from qa.training.trainer import QATrainer

# The only private methods that are overridden: name to parameters and what we rely on.
PRIVATE = {
    "_save_checkpoint": (["self", "model", "trial"], "writes a complete checkpoint, and CheckpointSaving encloses it"),
    "_get_output_dir": (["self", "trial"], "is asked for the folder of checkpoints, which may be the staging folder"),
    "_load_scaler": (["self", "checkpoint"], "loads the loss scale, and fails where there is no scaler to load it"),
    "_save_rng_state": (
        ["self", "output_dir"],
        "saves random states in a checkpoint; those of MPS and XPU are added",
    ),
    "_load_rng_state": (["self", "checkpoint"], "restores them before the first step; those of MPS and XPU are added"),
}
# Overridden and public: name to parameters.
PUBLIC = {
    "create_accelerator_and_postprocess": ["self"],
    "get_train_dataloader": ["self"],
    "get_eval_dataloader": ["self", "eval_dataset"],
    "get_test_dataloader": ["self", "test_dataset"],
    "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "prediction_step": ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "save_model": ["self", "output_dir", "_internal_call"],
}
# Called or set by us, not overridden.
USED = {"_prepare_inputs": ["self", "inputs"], "compute_loss_context_manager": ["self"]}


def message(name: str, fact: str) -> str:
    return f"transformers {transformers.__version__}: Trainer.{name}: {fact}"


def parameters(name: str) -> list[str]:
    method = getattr(Trainer, name, None)
    assert method is not None, message(name, "no longer exists")
    return list(inspect.signature(method).parameters)


def calls(name: str) -> list[str]:
    """Return the source of every call in ``Trainer``'s method, in the order of evaluation by lines."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(Trainer, name))))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(node) for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))]


def assert_in_order(name: str, *starts: str) -> None:
    """Check that the method makes calls that start with ``starts``, in this order."""
    made = calls(name)
    for start in starts:
        place = next((i for i, call in enumerate(made) if call.startswith(start)), None)
        assert place is not None, message(name, f"no longer calls {start} after the ones before it in {starts}")
        made = made[place + 1 :]


@pytest.mark.parametrize("name", PRIVATE)
def test_private_methods_have_the_signature_that_we_override(name):
    expected, reason = PRIVATE[name]
    assert parameters(name) == expected, message(name, f"has other parameters; it {reason}")
    assert list(inspect.signature(getattr(CheckpointSaving, name)).parameters)[: len(expected)] == expected


@pytest.mark.parametrize("name", PUBLIC | USED)
def test_public_methods_have_the_signature_that_we_override(name):
    assert parameters(name) == (PUBLIC | USED)[name], message(name, "has other parameters")


def test_no_other_method_of_trainer_is_overridden():
    library = {name for name in dir(Trainer) if not name.startswith("__")}
    ours = {name for kind in QATrainer.__mro__ if issubclass(kind, CheckpointSaving) for name in vars(kind)} & library
    assert ours == PRIVATE.keys() | PUBLIC.keys()
    assert {name for name in ours if name.startswith("_")} == PRIVATE.keys() & vars(CheckpointSaving).keys()
    assert QATrainer.__mro__[:3] == (QATrainer, CheckpointSaving, Trainer)
    for path in Path(REPOSITORY, "qa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name not in ("trainer.py", "checkpoint_saving.py"):
                assert "Trainer" not in map(ast.unparse, node.bases), f"{path} derives from Trainer, too"


def test_a_checkpoint_is_written_below_the_folder_that_get_output_dir_names():
    assert_in_order(
        "_save_checkpoint",
        "self.store_flos(",
        "self._get_output_dir(",
        "os.path.join(run_dir, checkpoint_folder)",
        "self.save_model(output_dir, _internal_call=True)",
        "self._save_optimizer_and_scheduler(output_dir)",
        "self._save_scaler(output_dir)",
        "self._save_rng_state(output_dir)",
        "self.state.save_to_json(",
        "rotate_checkpoints(",
    )
    source = inspect.getsource(Trainer._save_checkpoint)
    fact = "names the folder by something else than checkpoint-STEP"
    assert 'f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"' in source, message("_save_checkpoint", fact)
    assert "self.args.output_dir" not in source, message("_save_checkpoint", "writes beside _get_output_dir")


def test_save_model_writes_all_of_a_models_files_in_a_checkpoint():
    """``QATrainer.save_model`` replaces it and ``_save`` entirely, and omits only the pickled arguments."""
    assert_in_order("save_model", "self.accelerator.get_state_dict(self.model)", "self._save(output_dir")
    assert_in_order("_save", "self.model.save_pretrained(", "self.processing_class.save_pretrained(", "torch.save(")
    made = [call for call in calls("_save") if call.startswith("torch.save(")]
    assert made == ["torch.save(self.args, os.path.join(output_dir, TRAINING_ARGS_NAME))"], message("_save", str(made))


def test_a_step_is_logged_evaluated_and_saved_before_the_next_batches_are_drawn():
    """So a checkpoint saved in ``get_batch_samples`` has all of the step, and no random number of the next is drawn."""
    assert_in_order("_run_epoch", "self.get_batch_samples(", "self._load_rng_state(", "self.training_step(")
    fact = "on_step_end", "self._maybe_log_save_evaluate("
    assert_in_order(
        "_run_epoch", f"self.callback_handler.{fact[0]}(", fact[1], "self.callback_handler.on_epoch_end(", fact[1]
    )
    assert_in_order(
        "_maybe_log_save_evaluate",
        "self.log(",
        "self._evaluate(",
        "self._determine_best_metric(",
        "self._save_checkpoint(model, trial)",
        "self.callback_handler.on_save(",
    )


def test_callbacks_see_the_resumed_state_before_the_first_step():
    assert_in_order(
        "_inner_training_loop",
        "self.get_train_dataloader(",
        "self._init_training_state(",
        "self._prepare_for_training(",
        "self.callback_handler.on_train_begin(",
        "self.callback_handler.on_epoch_begin(",
        "self._run_epoch(",
    )


def test_callbacks_replace_weights_after_trainer_has_read_them():
    """So CheckpointWeightsCallback has the last word on resuming, at the end, and on every checkpoint it compares."""
    assert_in_order("train", "self._load_from_checkpoint(", "inner_training_loop(")
    assert_in_order("_finalize_training", "self._load_best_model(", "self.callback_handler.on_train_end(")
    assert_in_order("_maybe_log_save_evaluate", "self._save_checkpoint(", "self.callback_handler.on_save(")
    fact = "warns in other words than without_key_warnings hides"
    source = inspect.getsource(Trainer._issue_warnings_after_load)
    assert source.count("keys in the checkpoint model loaded") == 2, message("_issue_warnings_after_load", fact)
    assert Trainer.__module__ == "transformers.trainer", "the logger has another name"


def test_the_loss_is_divided_by_the_attribute_that_we_set():
    source = inspect.getsource(Trainer.training_step)
    fact = "divides the loss otherwise; forward_backward sets current_gradient_accumulation_steps"
    assert "loss = loss / self.current_gradient_accumulation_steps" in source, message("training_step", fact)
    assert "self.loss_is_scaled_for_ga" in source, message("training_step", "ignores loss_is_scaled_for_ga")
    assert_in_order("training_step", "self.compute_loss_context_manager(", "self.compute_loss(", "self.accelerator.ba")


def test_evaluation_gathers_the_tuples_of_prediction_step():
    assert_in_order(
        "evaluation_loop",
        "self.prediction_step(",
        "self.accelerator.pad_across_processes(logits, dim=1, pad_index=-100)",
        "self.gather_function(logits)",
        "self.compute_metrics(EvalPrediction(predictions=all_preds",
    )
    assert_in_order("evaluate", "self.get_eval_dataloader(", "self.evaluation_loop(", "self.log(")
    assert_in_order("predict", "self.get_test_dataloader(", "self.evaluation_loop(")


def test_the_loaders_of_trainer_take_these_options():
    """``make_dataloader`` makes the same loader with our samplers."""
    source = inspect.getsource(Trainer._get_dataloader)
    ours = {"num_workers", "pin_memory", "persistent_workers", "multiprocessing_context", "prefetch_factor"}
    ours |= {"in_order", "drop_last"}
    used = {name for name in dir(TrainingArguments) if name.startswith("dataloader_") and f"args.{name}" in source}
    assert used == {f"dataloader_{name}" for name in ours}, message("_get_dataloader", f"uses {sorted(used)}")
    assert_in_order("_get_dataloader", "self.accelerator.prepare(DataLoader(")


def test_accelerator_compilation_is_set_in_one_place():
    assert_in_order("create_accelerator_and_postprocess", "self._build_accelerator_args(", "Accelerator(**args)")
    assert any("dynamo" in line.lower() for line in calls("_build_accelerator_args")), message(
        "_build_accelerator_args", "sets no dynamo plugin, so create_accelerator_and_postprocess need not remove it"
    )


def test_one_gpu_is_used_by_overriding_their_number():
    for name in ("train_batch_size", "eval_batch_size"):
        source = inspect.getsource(getattr(TrainingArguments, name).fget)
        assert "self.n_gpu" in source, f"TrainingArguments.{name} does not read n_gpu"
    assert "self.args.n_gpu > 1" in inspect.getsource(Trainer._wrap_model), message("_wrap_model", "reads no n_gpu")

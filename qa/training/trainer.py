"""The Hugging Face ``Trainer`` for question answering: masked loss, seeded sampling, EM and F1 as metrics."""

import shutil
import signal
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import distributed
from transformers import Trainer

from qa.data.windows import column
from qa.evaluation.evaluator import Evaluator
from qa.inference.spans import Candidates, best_tokens_on_device
from qa.io import run_folder
from qa.io.files import write_yaml
from qa.io.run_folder import SETTINGS
from qa.model.batching import Collator, WindowRows, by_length
from qa.model.loading import save_tokenizer, takes_token_types
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.runtime.console import warn
from qa.runtime.distributed import on_main_process
from qa.runtime.errors import UserError, one_line
from qa.training import checkpoints
from qa.training.callbacks import DivergenceCallback, SetEpochCallback, check_finite_weights
from qa.training.compilation import RegionalCompilation, compile_blocks
from qa.training.oom_retry import OutOfMemoryRetry
from qa.training.resume import SignalHandler, TrainingInterrupted
from qa.training.sampling import FixedOrderSampler, LengthGroupedSampler, choose_batch_lengths


class QATrainer(OutOfMemoryRetry, RegionalCompilation, Trainer):
    """Trains on windows and evaluates by EM and F1 over examples.

    Args:
        evaluator: scores the logits of ``eval_dataset``, whose windows it holds.
        settings: written beside every saved model as ``settings.yaml``.
        group_size: windows of about one length that are sampled together; None for those of a step.
        stop: asked after every step whether to save and stop.
    """

    def __init__(
        self,
        *,
        evaluator: Evaluator,
        settings: dict | None = None,
        pad_to: int | None = None,
        group_size: int | None = None,
        stop: SignalHandler | None = None,
        **kwargs,
    ):
        if kwargs["args"].n_gpu > 1:  # one process for several GPUs is slow, and would multiply the batch
            warn(f"note: one of {kwargs['args'].n_gpu} GPUs is used; torchrun --nproc_per_node uses several")
            kwargs["args"]._n_gpu = 1
        model, tokenizer = kwargs["model"], kwargs["processing_class"]
        prepare_model(model, kwargs["args"])
        train_dataset, sizes = kwargs.get("train_dataset"), (pad_to,) if pad_to else ()
        if train_dataset is not None:
            sizes = choose_batch_lengths(column(train_dataset, "length"), kwargs["args"], pad_to, group_size)
            if kwargs["args"].torch_compile:  # evaluation uses nothing compiled
                compile_blocks(model, kwargs["args"])
        super().__init__(
            data_collator=Collator(tokenizer.pad_token_id, takes_token_types(model), sizes),
            compute_metrics=self.score,
            **kwargs,
        )
        self.add_callback(SetEpochCallback())
        self.evaluator, self.settings, self.group_size = evaluator, settings, group_size
        self.keep_logits = False  # all logits (W, L) among the predictions, for a file
        self.cls_last = bool((evaluator.windows.cls_index > 0).any())
        self.loss_is_scaled_for_ga = False  # masked_loss is a mean over one batch
        self.stop = stop or SignalHandler()
        if self.train_dataset is not None and self.args.stop_if_failed:
            self.add_callback(DivergenceCallback(self.train_dataset["length"][:]))
        self.saved: tuple[int, Path | None, float] = 0, None, time.monotonic()  # step, where, and when
        self.staging: Path | None = None
        self.evaluated: tuple[int, dict[str, float]] | None = None  # step and metrics of the last evaluation

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        metrics = super().evaluate(*args, **kwargs)
        self.evaluated = self.state.global_step, metrics
        return metrics

    def final_metrics(self) -> dict[str, float]:
        """The metrics of the model that training kept: the last evaluation's, or where another is kept, anew."""
        last = self.state.global_step
        kept = self.state.best_global_step if self.args.load_best_model_at_end else last
        if self.evaluated and self.evaluated[0] == last == kept:
            return self.evaluated[1]
        return self.evaluate()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        start, end = inputs.pop("start_positions"), inputs.pop("end_positions")
        outputs = model(**inputs)
        loss = masked_loss(outputs, inputs["attention_mask"], start, end)
        return (loss, outputs) if return_outputs else loss

    def _remove_unused_columns(self, dataset, description=None):
        return WindowRows(super()._remove_unused_columns(dataset, description))

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size = self.group_size or self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(column(self.train_dataset, "length"), size, seed)

    def _get_eval_sampler(self, eval_dataset):
        return FixedOrderSampler(by_length(self.evaluator.windows.length))

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Instead of logits (B, L) only what is needed of them, so that memory does not grow with the windows' length:
        the best starts and ends, the logits of CLS, and the loss of every window."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("start_positions"), inputs.pop("end_positions")
        try:
            with torch.no_grad(), self.compute_loss_context_manager(), self.uncompiled():
                outputs = model(**inputs)
        except torch.OutOfMemoryError:
            size = self.args.per_device_eval_batch_size
            raise UserError(f"evaluation runs out of memory: lower per_device_eval_batch_size, now {size}") from None
        mask, count = inputs["attention_mask"], self.evaluator.args.n_best_size
        start, end = outputs.start_logits.float(), outputs.end_logits.float()
        cls = mask.sum(1, keepdim=True) - 1 if self.cls_last else torch.zeros_like(mask[:, :1])
        (start_token, start_best), (end_token, end_best) = (best_tokens_on_device(x, mask, count) for x in (start, end))
        null = torch.cat([start.gather(1, cls), end.gather(1, cls)], dim=1)
        losses = masked_loss(outputs, mask, *labels, reduction="none")
        kept = (start, end) if self.keep_logits else ()
        return None, (start_token, end_token, start_best, end_best, null, losses, *kept), labels

    def score(self, prediction) -> dict[str, float]:
        """The metrics, computed by the main process and known to all; only it keeps the answers."""
        *candidates, losses = self.in_order(prediction.predictions)[:6]
        return on_main_process(lambda: self.evaluator(Candidates(*candidates), losses))

    def in_order(self, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Puts rows (W, ...), which come longest window first, back into the order of the windows."""
        back = np.argsort(by_length(self.evaluator.windows.length), kind="stable")
        return [array[back] for array in arrays]

    def _get_output_dir(self, trial=None) -> str:
        return str(self.staging or self.args.output_dir)

    def _save_checkpoint(self, model, trial=None, kind: str = run_folder.REGULAR) -> None:
        """As ``Trainer``, but under a staging name until all is written; its rotation follows the renaming."""
        check_finite_weights(model, self.state, self.args)
        step, folder = self.state.global_step, Path(self.args.output_dir)
        final, best = folder / f"{kind}-{step}", self.state.best_model_checkpoint
        if kind == run_folder.REGULAR and self.state.best_global_step == step:
            best = str(final)
        self.staging = folder / run_folder.STAGING
        staged = self.staging / f"{run_folder.REGULAR}-{step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            self.state.best_model_checkpoint = best
            if self.is_world_process_zero():
                self.state.save_to_json(str(staged / run_folder.TRAINER_STATE))
                checkpoints.commit_checkpoint(staged, final, self.train_dataset._fingerprint)
                if kind == run_folder.REGULAR:
                    checkpoints.rotate(folder, self.args.save_total_limit, {final, Path(best or final)})
                checkpoints.remove_recoveries(folder, before=step)
        except (OSError, RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(folder).free
            raise UserError(
                f"{final} could not be saved, with {free / 2**30:.2f} GiB free on the disk: {one_line(error)}. Earlier"
                " checkpoints are whole: free some space and run the same command again to go on"
            ) from error
        finally:
            if self.is_world_process_zero():
                shutil.rmtree(self.staging, ignore_errors=True)
            self.staging = None
        self.accelerator.wait_for_everyone()
        self.saved = step, final, time.monotonic()

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        """As ``Trainer``, then a recovery checkpoint if one is due, and the end if a signal asked for it.

        Never on an epoch's last step before its evaluation: a run that goes on from there would leave that out.
        """
        if self.control.should_evaluate:
            check_finite_weights(self.model, self.state, self.args)
        super()._maybe_log_save_evaluate(*args, **kwargs)
        minutes = self.args.recovery_minutes
        due = bool(minutes) and time.monotonic() - self.saved[2] > 60 * minutes
        due, asked = self.any_process(due, self.stop.number is not None)
        within = not float(self.state.epoch).is_integer() and self.state.global_step < self.state.max_steps
        if within and self.saved[0] != self.state.global_step and (asked or due):
            self._save_checkpoint(self.model, kind=run_folder.RECOVERY)
        if asked and self.saved[0] == self.state.global_step:
            raise TrainingInterrupted(self.stop.number or signal.SIGTERM, self.saved[1])

    def any_process(self, *wishes: bool) -> list[bool]:
        """Each wish that at least one process has: saving and stopping are done together."""
        if self.args.world_size == 1:
            return list(wishes)
        counts = torch.tensor(wishes, dtype=torch.float32)
        distributed.all_reduce(counts, group=self.hosts)
        return [bool(count) for count in counts]

    @cached_property
    def hosts(self):
        """The processes as they talk to each other without their GPUs, which so need not be waited for."""
        return distributed.new_group(backend="gloo")

    def _init_training_state(self, *args, **kwargs):
        """As ``Trainer``; a best checkpoint that was damaged since is forgotten, so that another can be the best."""
        result, state = super()._init_training_state(*args, **kwargs), self.state
        if state.global_step > state.max_steps:
            raise UserError(
                f"the checkpoint is of step {state.global_step}, beyond the {state.max_steps} of this run: raise"
                " num_train_epochs or max_steps, or begin anew in another --output_dir"
            )
        if self.args.load_best_model_at_end and state.best_global_step:
            best = state.best_model_checkpoint
            if reason := checkpoints.find_corruption(Path(best)) if best else "it is gone":
                warn(f"warning: the best checkpoint so far, of step {state.best_global_step}, is forgotten: {reason}")
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        return result

    def save_finished(self) -> None:
        """The model that is kept, moved to ``output_dir`` when all of it is written."""
        check_finite_weights(self.model, self.state, self.args)
        staged = Path(self.args.output_dir) / run_folder.STAGING / "model"
        self.save_model(str(staged))
        if self.is_world_process_zero():
            checkpoints.publish(staged, Path(self.args.output_dir))
            shutil.rmtree(staged.parent, ignore_errors=True)

    def _save(self, output_dir=None, state_dict=None):
        """As ``Trainer``, but no ``training_args.bin``: it is a pickle and holds the Hub token in clear text."""
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
            save_tokenizer(self.processing_class, folder)
            if self.settings:
                write_yaml(Path(folder) / SETTINGS, self.settings)

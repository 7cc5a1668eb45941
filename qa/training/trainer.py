"""The Hugging Face ``Trainer`` for question answering: masked loss, seeded sampling, EM and F1 as metrics."""

import dataclasses
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import TorchDynamoPlugin
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import seed_worker

from qa.data.windows import column
from qa.evaluation.evaluator import Evaluator, ScoredAnswers, plain_metrics
from qa.io import run_folder
from qa.io.files import write_yaml, writing
from qa.io.run_folder import SETTINGS, WEIGHTS
from qa.model.batch_splitting import Batch, ForwardRetry
from qa.model.batching import WindowRows, by_length, make_dataloader
from qa.model.cpu_bf16 import adapt_to_cpu
from qa.model.device import note_other_gpus
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.model.padding import make_collator
from qa.model.tokenizer import save_tokenizer
from qa.options.training_arguments import TrainingOptions
from qa.runtime.distributed import ProcessGroup, on_main_process
from qa.training import checkpoints
from qa.training.callbacks import make_callbacks
from qa.training.checkpoint_saving import CheckpointSaving
from qa.training.compilation import compile_blocks, compiled_if_whole, uncompiled
from qa.training.failure import SKIPPED, FiniteLosses, check_finite_weights
from qa.training.interruption import SignalHandler
from qa.training.oom_retry import OutOfMemoryRetry
from qa.training.predictions import WindowPredictions, reduce_logits
from qa.training.progress import FORWARD, ProgressCallback
from qa.training.recovery import RecoveryCallback
from qa.training.resolved import ResolvedRun
from qa.training.sampling import LengthGroupedSampler, choose_batch_lengths, evaluation_batches

RESUME_ADVICE = "; free some space and rerun the same command to resume"


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of the model as it was after ``step`` steps."""

    step: int
    metrics: dict[str, float]  # scores and loss; runtime and speed are added when it has ended
    scored: ScoredAnswers | None  # in the main process only


class QATrainer(CheckpointSaving):
    """Train on windows, and evaluate by EM and F1 over examples.

    Args:
        evaluator: scores the predictions for ``eval_dataset``, which has the same windows.
        settings: saved with every model as ``settings.yaml``.
        resolved: the run that ``args`` belong to, saved with every checkpoint.
        stop: receives the signals that ask to save a checkpoint and stop.
        keep_logits: whether predictions hold all logits (W, L).
    """

    args: TrainingOptions
    model: PreTrainedModel

    def __init__(
        self,
        *,
        evaluator: Evaluator,
        resolved: ResolvedRun,
        settings: dict | None = None,
        stop: SignalHandler | None = None,
        keep_logits: bool = False,
        **kwargs,
    ):
        args, model, tokenizer = kwargs["args"], kwargs["model"], kwargs["processing_class"]
        note_other_gpus(args)
        self.evaluator, self.settings, self.keep_logits = evaluator, settings, keep_logits
        self.tokenizer, self.resolved = tokenizer, resolved
        self.evaluated: Evaluated | None = None  # the last evaluation, which evaluate_kept need not repeat
        self.eval_dataloader: DataLoader | None = None  # kept if its workers are persistent
        self.cls_last = bool((evaluator.windows.cls_index > 0).any())
        prepare_model(model, args.attn_implementation, args.fused_gelu, args.dropout)
        adapt_to_cpu(model, "bf16" if args.bf16 else "fp32", args.device)
        windows = kwargs.pop("train_dataset", None)
        pad_to = resolved.pad_to
        padding_lengths: tuple[int, ...] = (pad_to,) if pad_to else ()
        if windows is not None:
            self.windows_name, self.lengths = windows._fingerprint, column(windows, "length")
            self.group_size = resolved.batches.step_size
            padding_lengths = choose_batch_lengths(self.lengths, args, pad_to, self.group_size)
        self.collator = make_collator(model, tokenizer, evaluator.args.max_seq_length, padding_lengths)
        if windows is not None and args.torch_compile:  # evaluation runs uncompiled
            compile_blocks(model, args)
        self.train_rows = None if windows is None else WindowRows(windows, self.collator.columns)
        self.eval_rows = WindowRows(kwargs.pop("eval_dataset"), self.collator.columns)
        super().__init__(
            data_collator=self.collator,
            train_dataset=self.train_rows,
            eval_dataset=self.eval_rows,
            compute_metrics=self.score,
            **kwargs,
        )
        self.loss_is_scaled_for_ga = False  # masked_loss is a mean over one batch
        alone = args.world_size == 1
        self.retry = OutOfMemoryRetry(alone, ", uncompiled" if args.torch_compile else "")
        self.eval_retry, self.finite_losses = ForwardRetry("evaluation", alone), FiniteLosses()
        self.recovery = RecoveryCallback(stop or SignalHandler(), args, ProcessGroup(args.world_size))
        self.remove_callback(PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        share = 0.0 if windows is None else FORWARD * len(self.eval_rows) / self.group_size
        ours = *make_callbacks(args, None if windows is None else self.lengths), ProgressCallback(args, share)
        for callback in (*ours, self.recovery):
            self.add_callback(callback)

    def create_accelerator_and_postprocess(self) -> None:
        precision = torch.get_float32_matmul_precision()
        super().create_accelerator_and_postprocess()
        # Trainer's own plugin would compile the whole model, and turns TF32 on; this is accelerate's default.
        self.accelerator.state.dynamo_plugin = TorchDynamoPlugin()
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        if self.train_rows is None or self.args.train_sampling_strategy != "group_by_length":
            return super().get_train_dataloader()
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = LengthGroupedSampler(self.lengths, self.group_size, seed)
        init = partial(seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index)
        drawn = {"batch_size": self.args.train_batch_size, "drop_last": self.args.dataloader_drop_last}
        loader = make_dataloader(self.train_rows, self.collator, self.args, init, sampler=sampler, **drawn)
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return the windows of the evaluator, longest first; no other dataset is evaluated."""
        if self.eval_dataloader is not None:
            return self.eval_dataloader
        batches = evaluation_batches(self.evaluator.windows.length, self.args, self.collator.width)
        loader = self.accelerator.prepare(make_dataloader(self.eval_rows, self.collator, self.args, **batches))
        if self.args.dataloader_persistent_workers:
            self.eval_dataloader = loader
        return loader

    def get_test_dataloader(self, test_dataset=None) -> DataLoader:
        return self.get_eval_dataloader()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Save a recovery checkpoint if one is due, then draw the batches of the next step."""
        if self.recovery.is_due(self.state):
            self._save_checkpoint(self.model, kind=run_folder.RECOVERY)
            self.recovery.after_save(self.state, self.args.folder / f"{run_folder.RECOVERY}-{self.state.global_step}")
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.retry.begin_step(batches)
        return batches, items

    # Training

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        start, end = inputs.pop("start_positions"), inputs.pop("end_positions")
        outputs = model(**inputs)
        loss = masked_loss(outputs, inputs["attention_mask"], start, end)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Run one batch forward and backward, in smaller micro-batches if it does not fit into memory."""
        loss = self.retry.run(inputs, partial(self.forward_backward, model), model.zero_grad)
        if self.accelerator.scaler is None:
            return loss
        return self.finite_losses.replace(loss, SKIPPED * self.args.gradient_accumulation_steps)

    def forward_backward(self, model, inputs: dict[str, torch.Tensor], divisor: float) -> torch.Tensor:
        """Return the loss of a micro-batch divided by ``divisor``, its gradient added to those of the step."""
        accumulated = self.current_gradient_accumulation_steps  # what Trainer divides by
        self.current_gradient_accumulation_steps = divisor  # type: ignore[assignment]  # Trainer only divides by it
        try:
            with compiled_if_whole(self.args, len(inputs["input_ids"])):
                return super().training_step(model, inputs)
        finally:
            self.current_gradient_accumulation_steps = accumulated

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the tuple of ``WindowPredictions`` instead of logits (B, L), which would need memory for all windows.

        Raises:
            UserError: a window does not fit into memory, or with several processes a batch.
        """
        inputs = self._prepare_inputs(inputs)
        found = self.eval_retry.run(inputs, partial(self.predict_windows, model))
        return None, found, (inputs["start_positions"], inputs["end_positions"])

    def predict_windows(self, model, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return the tuple of ``WindowPredictions`` of a batch with labels."""
        labels = batch.pop("start_positions"), batch.pop("end_positions")
        with torch.no_grad(), self.compute_loss_context_manager(), uncompiled(self.args):
            outputs = model(**batch)
        count = self.evaluator.args.n_best_size
        return reduce_logits(
            outputs, batch["attention_mask"], *labels, count, self.cls_last, self.keep_logits
        ).to_tuple()

    def in_order(self, gathered: Any) -> WindowPredictions[np.ndarray]:
        """Return what ``prediction_step`` gave for all windows, which were evaluated longest first, in their order."""
        back = np.argsort(by_length(self.evaluator.windows.length), kind="stable")
        return WindowPredictions.from_tuple(gathered)[back]

    def score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics, computed by the main process and sent to all; only it keeps the answers."""
        predictions, scored = self.in_order(prediction.predictions), None

        def score_all() -> dict[str, float]:
            nonlocal scored
            scored = self.evaluator(predictions.candidates, predictions.loss)
            return scored.metrics

        metrics = on_main_process(score_all)
        self.evaluated = Evaluated(self.state.global_step, metrics, scored)
        return metrics

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        metrics = super().evaluate(*args, **kwargs)
        self.complete(metrics)
        return metrics

    def complete(self, metrics: dict[str, float]) -> Evaluated:
        """Return what ``score`` recorded, with all ``metrics`` of this evaluation: runtime and speed, too."""
        assert self.evaluated is not None, "score has recorded it"
        self.evaluated = dataclasses.replace(self.evaluated, metrics=plain_metrics(metrics, "eval"))
        return self.evaluated

    def evaluate_kept(self) -> Evaluated:
        """Return the evaluation of the kept checkpoint; re-evaluate only if it is not the last.

        An evaluation is logged under the last step, so that of an earlier checkpoint, which was logged, is not.
        """
        last = self.state.global_step
        kept = self.state.best_global_step if self.args.load_best_model_at_end else last
        if self.evaluated and self.evaluated.step == last == kept:
            return self.evaluated
        if kept in (last, None):
            return self.complete(super().evaluate())
        evaluated, _ = self.evaluate_windows()
        self.evaluated = dataclasses.replace(
            evaluated, step=kept, metrics=evaluated.metrics | {"epoch": self.state.epoch or 0.0}
        )
        return self.evaluated

    def evaluate_windows(self) -> tuple[Evaluated, WindowPredictions[np.ndarray]]:
        """Evaluate without training or logging; return also the predictions, in the order of the windows."""
        output = self.predict(self.eval_rows, metric_key_prefix="eval")
        return self.complete(output.metrics or {}), self.in_order(output.predictions)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, tokenizer and settings, without ``training_args.bin``: a pickle with the Hub token in clear text.

        All processes call this together.
        """
        folder = Path(output_dir or self.args.folder)
        state_dict = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
            save_tokenizer(self.tokenizer, str(folder))
            if self.settings:
                write_yaml(folder / SETTINGS, self.settings)

    def save_finished(self) -> None:
        """Save the kept model, and move it to ``output_dir`` when it is complete.

        Raises:
            UserError: weights that are not finite, or a model that could not be written.
        """
        check_finite_weights(self.model, self.state, self.args)
        staged = self.args.folder / run_folder.STAGING / "model"
        try:
            with writing(self.args.folder / WEIGHTS, RESUME_ADVICE):
                self.save_model(str(staged))
                if self.is_world_process_zero():
                    checkpoints.move_into_place(staged, self.args.folder)
        finally:
            if self.is_world_process_zero():
                shutil.rmtree(staged.parent, ignore_errors=True)

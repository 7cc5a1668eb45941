"""The private methods of ``transformers.Trainer`` that are overridden, all of them.

tests/training/test_trainer_contract.py states what they rely on, and fails first if a new transformers changes it.
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import Trainer

from qa.io import run_folder
from qa.model.device_errors import is_device_error
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError, free_space, one_line
from qa.training import checkpoints
from qa.training.failure import check_finite_weights
from qa.training.resolved import ResolvedRun

UNSAVED_STATES = ("mps", "xpu")  # devices whose random state Trainer leaves out


class CheckpointSaving(Trainer):
    """Write every checkpoint under a staging name, and rename it when it is complete.

    No public hook or callback encloses the writing of a checkpoint: ``on_save`` comes after it, ``save_model`` writes
    the model only. None comes before the loss scale is loaded either. Hence these private methods:

    - ``_save_checkpoint`` encloses it: checks before, and renames, rotates and reports errors after.
    - ``_get_output_dir`` is where ``Trainer._save_checkpoint`` asks for the folder, so that it can be another one.
    - ``_load_scaler`` loads the loss scale of fp16, and fails if the checkpoint has one and the run has none.
    - ``_save_rng_state`` and ``_load_rng_state`` are where random states are saved and restored. Those of MPS and XPU,
      from which dropout is drawn, are added.
    """

    args: TrainingOptions
    staging: Path | None = None  # while a checkpoint is written
    windows_name: str  # of the training windows, kept with every checkpoint
    resolved: ResolvedRun  # kept with every checkpoint, too

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.device.type in UNSAVED_STATES:
            torch.save(torch.get_device_module(self.args.device).get_rng_state(), self.device_state(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint and self.args.device.type in UNSAVED_STATES and self.device_state(checkpoint).is_file():
            state = torch.load(self.device_state(checkpoint), weights_only=True)
            torch.get_device_module(self.args.device).set_rng_state(state)

    def device_state(self, checkpoint: str) -> Path:
        """Return the file for the random state of this process's device."""
        return Path(checkpoint) / f"rng_state_{self.args.device.type}_{self.args.process_index}.pth"

    def _get_output_dir(self, trial=None) -> str:
        return str(self.staging or self.args.folder)

    def _save_checkpoint(self, model, trial=None, kind: str = run_folder.REGULAR) -> None:
        """Save a checkpoint of ``kind``; its rotation follows the renaming.

        Raises:
            UserError: weights that are not finite, or a checkpoint that could not be written.
        """
        check_finite_weights(model, self.state, self.args)
        folder = self.args.folder
        final, best = folder / f"{kind}-{self.state.global_step}", self.state.best_model_checkpoint
        if kind == run_folder.REGULAR and self.state.best_global_step == self.state.global_step:
            best = str(final)
        self.staging = folder / run_folder.STAGING
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            self.state.best_model_checkpoint = best  # a path below the staging folder until now
            if self.is_world_process_zero():
                self.commit(self.staging, final, kind)
        except (OSError, RuntimeError, SafetensorError) as error:
            if is_device_error(error):  # no file's, though it occurred here
                raise
            raise UserError(
                f"{final} could not be saved, with {free_space(folder)}: {one_line(error)}. Earlier checkpoints are"
                " intact: free some space and rerun the same command to resume"
            ) from error
        finally:
            if self.is_world_process_zero():
                shutil.rmtree(self.staging, ignore_errors=True)
            self.staging = None
        self.accelerator.wait_for_everyone()

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Load the loss scale of a run in fp16; report what changes if either the checkpoint or the run has none."""
        if checkpoint is None:
            return
        saved, scaler = (Path(checkpoint) / run_folder.SCALER).is_file(), self.accelerator.scaler
        if saved and scaler is not None:
            super()._load_scaler(checkpoint)
        elif scaler is not None:
            warn(
                f"note: {checkpoint} has no loss scale ({run_folder.SCALER}), as it was not trained in fp16: the scale"
                f" starts at {scaler.get_scale():,.0f}, and the steps in which that is too high are skipped"
            )
        elif saved:
            warn(
                f"note: the loss scale in {checkpoint} ({run_folder.SCALER}) is not used: this run computes in"
                f" {self.resolved.precision}, which needs none"
            )

    def commit(self, staging: Path, final: Path, kind: str) -> None:
        """Rename the checkpoint written below ``staging``, and remove those it replaces."""
        staged = staging / f"{run_folder.REGULAR}-{self.state.global_step}"
        self.state.save_to_json(str(staged / run_folder.TRAINER_STATE))
        checkpoints.commit_checkpoint(staged, final, self.windows_name, self.resolved.record(self.args.world_size))
        if kind == run_folder.REGULAR:
            kept = {final, Path(self.state.best_model_checkpoint or final)}
            checkpoints.rotate(final.parent, self.args.save_total_limit, kept)
        checkpoints.remove_recoveries(final.parent, before=self.state.global_step)

"""The options of training: our own, and a row for each field of ``TrainingArguments``, which is not imported.

Those for the Hub, logging, data loading and several devices are in ``system_fields``.
"""

from dataclasses import dataclass
from typing import Literal

from qa.options.option import Option, Precision, option

Interval = Literal["no", "steps", "epoch"]


@dataclass
class OurTrainingOptions:
    """Options added to ``TrainingArguments``, or with another default."""

    recovery_minutes: float = option(
        5.0,
        "Minutes between recovery checkpoints. The newest is kept until the next regular one (0: none).",
        "evaluation and checkpoints",
        common=True,
        changes_result="never",
    )
    overwrite_output_dir: bool = option(
        False, "Delete the run in output_dir first.", "evaluation and checkpoints", common=True, saved=False
    )
    plan: bool = option(
        False,
        "Print the plan of the run and stop. Its steps, padding and memory.",
        "batches and memory",
        common=True,
        saved=False,
    )
    gpu_memory_gb: str | None = option(
        None,
        "Choose a batch size that fits: auto (what is free on this GPU) or GB. The effective batch size is unchanged.",
        "batches and memory",
        common=True,
        changes_result="never",
    )
    precision: Precision = option(
        "auto",
        "fp32, fp16 or bf16. Auto: on a GPU as fp16 or bf16 are set, else bf16 if it has it, else fp16; on a CPU bf16"
        " where that is faster, else fp32.",
        "device",
        common=True,
        published="always",
    )
    fused_gelu: bool = option(
        True, "Compute the activation gelu_new in one kernel, with the same result.", "compilation", published="if_set"
    )
    attn_implementation: str | None = option(
        None, "sdpa or eager (null: sdpa where the model has it).", "compilation", published="if_set"
    )
    dropout: float | None = option(
        None, "Dropout of all layers (null: as in the model's configuration).", "optimization", published="if_set"
    )
    stop_if_failed: bool = option(
        True,
        "Stop if the loss is not finite, or no better than a uniform guess after the warm-up.",
        "optimization",
        changes_result="never",
    )
    logging_nan_inf_filter: bool = option(
        False, "Do not log losses that are not finite; synchronizes with the GPU.", "logging", changes_result="never"
    )


FIELDS = (
    Option(
        "output_dir",
        "output",
        "Folder for the results.",
        common=True,
        changes_result="never",
        belongs_to="run",
    ),
    # Optimization
    Option("learning_rate", "optimization", "Peak learning rate.", 5e-5, common=True, published="always", kind=float),
    Option("lr_scheduler_type", "optimization", published="always"),
    Option("lr_scheduler_kwargs", "optimization", published="if_set"),
    Option(
        "warmup_steps",
        "optimization",
        "Warm-up steps; below 1, a share of all steps.",
        0,
        common=True,
        published="always",
        kind=float,
    ),
    Option("num_train_epochs", "optimization", "Epochs of training.", 3.0, common=True, published="always", kind=float),
    Option("max_steps", "optimization", published="always", kind=int),
    Option("optim", "optimization", published="always"),
    Option("optim_args", "optimization", published="if_set"),
    Option("optim_target_modules", "optimization"),
    Option("adam_beta1", "optimization", published="always", kind=float),
    Option("adam_beta2", "optimization", published="always", kind=float),
    Option("adam_epsilon", "optimization", published="always", kind=float),
    Option(
        "weight_decay",
        "optimization",
        "Weight decay, except for biases.",
        0.0,
        common=True,
        published="always",
        kind=float,
    ),
    Option("max_grad_norm", "optimization", published="always", kind=float),
    Option("label_smoothing_factor", "optimization", refused="the loss does not support label smoothing", kind=float),
    Option("neftune_noise_alpha", "optimization", published="if_set", kind=float),
    Option(
        "seed",
        "optimization",
        "Seed for weights, dropout and data order.",
        42,
        common=True,
        published="always",
        kind=int,
    ),
    Option("data_seed", "optimization", published="if_set", kind=int),
    Option("full_determinism", "optimization", kind=bool),
    # Batches and memory
    Option(
        "per_device_train_batch_size",
        "batches and memory",
        "Micro-batch size per device, in windows.",
        8,
        common=True,
        changes_result="unless_same_step",
        published="always",
        planned=True,
        kind=int,
    ),
    Option(
        "gradient_accumulation_steps",
        "batches and memory",
        "Micro-batches per optimizer step.",
        1,
        common=True,
        changes_result="unless_same_step",
        published="always",
        planned=True,
        kind=int,
    ),
    Option(
        "per_device_eval_batch_size",
        "device",
        "Evaluation batch size per device, in windows. Of the longest kind: shorter ones go more to a batch.",
        8,
        common=True,
        changes_result="never",
        planned=True,
        kind=int,
    ),
    Option(
        "train_sampling_strategy",
        "batches and memory",
        "random or group_by_length.",
        "random",
        common=True,
        published="always",
    ),
    Option(
        "activation_checkpointing",
        "batches and memory",
        changes_result="never",
        published="if_set",
        planned=True,
        kind=bool,
    ),
    Option("activation_checkpointing_kwargs", "batches and memory"),
    Option("gradient_checkpointing", "batches and memory", kind=bool, saved=False),  # same as activation_checkpointing
    Option("gradient_checkpointing_kwargs", "batches and memory", saved=False),
    Option(
        "auto_find_batch_size", "batches and memory", refused="gpu_memory_gb: auto finds a batch that fits", kind=bool
    ),
    Option("torch_empty_cache_steps", "batches and memory", kind=int),
    Option("average_tokens_across_devices", "batches and memory", kind=bool, default=True),
    Option("length_column_name", "batches and memory"),
    Option("remove_unused_columns", "batches and memory", kind=bool, default=True),
    # Precision, kernels, compilation
    Option("bf16", "compilation", published="always", kind=bool),
    Option("fp16", "compilation", published="always", kind=bool),
    Option("bf16_full_eval", "compilation", kind=bool),
    Option("fp16_full_eval", "compilation", kind=bool),
    Option("tf32", "compilation", kind=bool),
    Option("torch_compile", "compilation", kind=bool),
    Option("torch_compile_backend", "compilation"),
    Option("torch_compile_mode", "compilation"),
    Option("use_liger_kernel", "compilation", kind=bool),
    Option("liger_kernel_config", "compilation"),
    Option("use_cache", "compilation", kind=bool),
    # The precision may change the result, and is compared.
    Option("use_cpu", "device", "Compute on the CPU.", False, common=True, changes_result="never", kind=bool),
    # Evaluation and checkpoints
    Option(
        "eval_strategy",
        "evaluation and checkpoints",
        "no, steps or epoch.",
        "no",
        common=True,
        published="if_set",
        kind=Interval,
    ),
    Option("eval_steps", "evaluation and checkpoints", kind=float),
    Option("eval_delay", "evaluation and checkpoints", kind=float),
    Option("eval_on_start", "evaluation and checkpoints", kind=bool),
    Option("eval_accumulation_steps", "evaluation and checkpoints", kind=int),
    Option("eval_use_gather_object", "evaluation and checkpoints", kind=bool),
    Option(
        "prediction_loss_only",
        "evaluation and checkpoints",
        refused="evaluation needs the logits",
        kind=bool,
    ),
    Option(
        "batch_eval_metrics", "evaluation and checkpoints", refused="metrics are computed over all questions", kind=bool
    ),
    Option(
        "eval_do_concat_batches",
        "evaluation and checkpoints",
        refused="metrics need all windows in one array",
        kind=bool,
        default=True,
    ),
    Option(
        "include_for_metrics",
        "evaluation and checkpoints",
        refused="metrics are computed from logits only",
        kind=list[str],
    ),
    Option(
        "label_names",
        "evaluation and checkpoints",
        refused="the labels are start_positions and end_positions",
        kind=list[str],
    ),
    Option(
        "save_strategy",
        "evaluation and checkpoints",
        "no, steps, epoch or best.",
        "steps",
        common=True,
        published="if_set",
        kind=Literal["no", "steps", "epoch", "best"],
    ),
    Option("save_steps", "evaluation and checkpoints", kind=float),
    Option("save_on_each_node", "evaluation and checkpoints", kind=bool),
    Option("save_only_model", "evaluation and checkpoints", kind=bool),
    Option(
        "save_total_limit",
        "evaluation and checkpoints",
        "Checkpoints to keep.",
        common=True,
        changes_result="never",
        kind=int,
    ),
    Option(
        "enable_jit_checkpoint",
        "evaluation and checkpoints",
        refused="SIGTERM saves a checkpoint in any case",
        kind=bool,
    ),
    Option(
        "load_best_model_at_end",
        "evaluation and checkpoints",
        "Keep the best checkpoint's model.",
        False,
        common=True,
        published="if_set",
        kind=bool,
    ),
    Option(
        "metric_for_best_model",
        "evaluation and checkpoints",
        "f1, exact_match (2.0: exact) or loss.",
        common=True,
        published="if_set",
    ),
    Option("greater_is_better", "evaluation and checkpoints", kind=bool),
    Option(
        "resume_from_checkpoint",
        "evaluation and checkpoints",
        "last, or a checkpoint folder. To resume even if settings differ; rerunning the same command needs no option.",
        common=True,
        private=True,
        saved=False,
    ),
    Option("ignore_data_skip", "evaluation and checkpoints", kind=bool),
    Option("restore_callback_states_from_checkpoint", "evaluation and checkpoints", kind=bool),
    Option("do_train", "evaluation and checkpoints", changes_result="never", kind=bool),
    Option("do_eval", "evaluation and checkpoints", changes_result="never", kind=bool),
    Option("do_predict", "evaluation and checkpoints", changes_result="never", kind=bool),
)

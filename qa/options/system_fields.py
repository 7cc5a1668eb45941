"""Rows for the fields of ``TrainingArguments`` that concern the Hub, logging, data loading and several devices."""

from qa.options.option import Option
from qa.options.training_fields import Interval

SYSTEM_FIELDS = (
    # The Hub
    Option(
        "push_to_hub",
        "Hub",
        "Publish the finished model.",
        False,
        common=True,
        changes_result="never",
        private=True,
        kind=bool,
    ),
    Option("hub_model_id", "Hub", "Repository name: USER/NAME.", common=True, changes_result="never", private=True),
    Option("hub_private_repo", "Hub", changes_result="never", private=True, kind=bool),
    Option("hub_strategy", "Hub", changes_result="never", private=True),
    Option("hub_always_push", "Hub", changes_result="never", private=True, kind=bool),
    Option("hub_revision", "Hub", changes_result="never", private=True),
    # Logging
    Option("logging_strategy", "logging", changes_result="never", kind=Interval),
    Option("logging_steps", "logging", changes_result="never", kind=float),
    Option("logging_first_step", "logging", changes_result="never", kind=bool),
    Option("log_on_each_node", "logging", changes_result="never", kind=bool, default=True),
    Option("log_level", "logging", changes_result="never"),
    Option("log_level_replica", "logging", changes_result="never"),
    Option("disable_tqdm", "logging", changes_result="never", kind=bool),
    Option("report_to", "logging", changes_result="never"),
    Option("run_name", "logging", changes_result="never"),
    Option("project", "logging"),
    Option("trackio_space_id", "logging"),
    Option("trackio_bucket_id", "logging"),
    Option("trackio_static_space_id", "logging"),
    Option("include_num_input_tokens_seen", "logging", kind=bool),
    Option("skip_memory_metrics", "logging", kind=bool, default=True),
    Option("debug", "logging", kind=list[str]),
    # Loading of batches
    Option("dataloader_drop_last", "data loading", refused="evaluation needs every window", kind=bool),
    Option("dataloader_num_workers", "data loading", changes_result="never", kind=int),
    Option("dataloader_pin_memory", "data loading", changes_result="never", kind=bool, default=True),
    Option("dataloader_persistent_workers", "data loading", changes_result="never", kind=bool),
    Option("dataloader_prefetch_factor", "data loading", changes_result="never", kind=int),
    Option("dataloader_multiprocessing_context", "data loading", changes_result="never"),
    Option("dataloader_in_order", "data loading", changes_result="never", kind=bool, default=True),
    # Several devices
    Option("accelerator_config", "several devices", changes_result="never"),
    Option("parallelism_config", "several devices"),
    Option("ddp_find_unused_parameters", "several devices", changes_result="never", kind=bool),
    Option("ddp_bucket_cap_mb", "several devices", changes_result="never", kind=int),
    Option("ddp_broadcast_buffers", "several devices", changes_result="never", kind=bool),
    Option("ddp_static_graph", "several devices", changes_result="never", kind=bool),
    Option("ddp_backend", "several devices", changes_result="never"),
    Option("ddp_timeout", "several devices", changes_result="never", kind=int),
    Option("fsdp", "several devices", kind=None),
    Option("fsdp_config", "several devices"),
    Option("deepspeed", "several devices"),
    Option("local_rank", "several devices", saved=False, kind=int),
)

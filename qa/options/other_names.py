"""What options of ours are called elsewhere, for the answer to an unknown option."""

from collections.abc import Container

from qa.options.arguments import COMMAND_KINDS, DataArguments, ModelArguments
from qa.options.table import TRAINING, rows_of

COMMANDS = ("evaluate_qa.py", "ask.py", "publish.py")  # in the order of COMMAND_KINDS

# Name elsewhere to ours; of several, the first that the command has.
OTHER_NAMES = {
    # the model
    "model model_name model_id model_path pretrained_model checkpoint base_model": "model_dir model_name_or_path",
    "model_name_or_path output_dir": "model_dir output",
    "model_dir": "model_name_or_path",
    "tokenizer tokenizer_name_or_path tokenizer_path": "tokenizer_name",
    "revision": "model_revision",
    # the data
    "dataset dataset_id dataset_path": "input dataset_name",
    "dataset_config": "dataset_config_name",
    "train train_data train_path training_file": "train_file",
    "validation val_file valid_file dev_file eval_file predict_file dev_data eval_data": "validation_file",
    "input_file questions file": "input validation_file",
    "text passage paragraph document": "context",
    "squad_v2 version_2 squad2": "version_2_with_negative",
    # windows and answers
    "max_length max_len max_seq_len seq_length seq_len sequence_length block_size": "max_seq_length",
    "stride overlap": "doc_stride",
    "max_query_len max_question_length max_question_len": "max_query_length",
    "max_answer_len": "max_answer_length",
    "threshold null_threshold null_score_threshold": "null_score_diff_threshold",
    "topk k": "top_k",
    # training
    "lr": "learning_rate",
    "epochs num_epochs n_epochs max_epochs train_epochs": "num_train_epochs",
    "steps num_steps max_train_steps": "max_steps",
    "batch_size train_batch_size bs": "per_device_train_batch_size per_device_eval_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "accumulation grad_accum grad_accum_steps accumulate_grad_batches": "gradient_accumulation_steps",
    "wd decay": "weight_decay",
    "warmup num_warmup_steps warmup_proportion": "warmup_steps",
    "scheduler lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "grad_clip clip_grad max_norm": "max_grad_norm",
    "random_seed random_state": "seed",
    "metric": "metric_for_best_model",
    "amp dtype torch_dtype mixed_precision": "precision",
    "gpu cuda use_gpu use_cpu": "device",
    "device": "use_cpu",
    "num_workers workers": "dataloader_num_workers",
    # output
    "output out out_dir output_folder output_path save_dir save_path": "output output_dir model_dir",
    "overwrite": "overwrite_output_dir",
    "resume resume_from": "resume_from_checkpoint",
    "repo repo_id repository hub_repo hub_model": "hub_model_id",
    "cfg conf config_file config_path": "config",
}
DATA_NAMES = {  # the options that name data depend on an option that only this command has
    "question": "input",
    "predictions": "validation_file or dataset_name",
    "train_file": "train_file and validation_file, or dataset_name",
}


def explain_name(name: str, known: Container[str]) -> str | None:
    """Return how a command that has the ``known`` options calls ``name``, or which command has it; None otherwise."""
    if name in ("data", "data_file", "data_path", "data_dir"):
        return next((f"is called {text} here" for option, text in DATA_NAMES.items() if option in known), None)
    for names, ours in OTHER_NAMES.items():
        our = next((our for our in ours.split() if our in known), None)
        if our and name in names.split():
            return f"is called {our} here"
    owners = {row.name: "train.py" for kind in (ModelArguments, DataArguments) for row in rows_of(kind)}
    owners |= {row.name: "train.py" for row in TRAINING if not row.refused}
    for command, kind in zip(COMMANDS, COMMAND_KINDS, strict=True):
        owners = {row.name: command for row in rows_of(kind)} | owners
    return f"is an option of {owners[name]}, not of this command" if name in owners else None

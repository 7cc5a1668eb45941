"""The table of options: one row for each name that is known in ``settings.yaml`` or on a command line.

Our own options are rows in their dataclasses, the fields of ``TrainingArguments`` in ``training_fields`` and
``system_fields``, and names that are options elsewhere, or were in older releases, in this module and in
``other_programs``.
"""

import dataclasses

from qa.options.arguments import COMMAND_KINDS, DataArguments, ModelArguments
from qa.options.option import Option
from qa.options.other_programs import EXAMPLES, RELEASE_4
from qa.options.system_fields import SYSTEM_FIELDS
from qa.options.training_fields import FIELDS, OurTrainingOptions

OLD_NAMES = (
    Option(
        "logging_dir",
        instead="was removed in transformers 5: TensorBoard logs go to OUTPUT_DIR/runs, or to the folder in the"
        " environment variable TENSORBOARD_LOGGING_DIR",
    ),
    Option("group_by_length", instead="was removed in transformers 5: write train_sampling_strategy: group_by_length"),
    Option("evaluation_strategy", instead="is called eval_strategy now"),
    Option(
        "warmup_ratio",
        instead="was removed in transformers 5: write warmup_steps (below 1 it is a share of all steps)",
    ),
    Option("fp32", instead="is a value here: --precision fp32, or precision: fp32 in a file"),
    Option("no_cuda", instead="is called use_cpu now"),
    Option("per_gpu_train_batch_size", instead="is called per_device_train_batch_size now"),
    Option("per_gpu_eval_batch_size", instead="is called per_device_eval_batch_size now"),
    Option("do_lower_case", instead="belongs to the tokenizer: choose an uncased or a cased checkpoint"),
    Option("test_file", instead="is called validation_file in evaluate_qa.py, which answers it with a finished model"),
    *(
        Option(name, instead="is not needed: log in once with `hf auth login`", private=True)
        for name in ("use_auth_token", "token", "hf_token", "auth_token", "access_token", "huggingface_token")
    ),
    Option(
        "hub_token",
        instead="is not needed, and does not belong in a file: log in once with `hf auth login`",
        private=True,
    ),
    Option("trust_remote_code", instead="is not supported: no code from a repository is ever run"),
)


def rows_of(kind: type) -> list[Option]:
    """Return the rows of a dataclass of our own options."""
    return [
        dataclasses.replace(item.metadata["option"], name=item.name)
        for item in dataclasses.fields(kind)
        if "option" in item.metadata
    ]


# Options of train.py, and so of settings.yaml; then those of other commands, some with the same names.
TRAINING = (*rows_of(OurTrainingOptions), *FIELDS, *SYSTEM_FIELDS)
RUN = (*rows_of(ModelArguments), *rows_of(DataArguments), *TRAINING)
OTHERS = tuple(row for kind in COMMAND_KINDS for row in rows_of(kind))
TABLE = {row.name: row for row in (*OTHERS, *RUN, *OLD_NAMES, *EXAMPLES, *RELEASE_4)}

# The options of training as a dataclass to parse them with, before ``TrainingOptions`` and the libraries are loaded.
TrainingRows = dataclasses.make_dataclass(
    "TrainingRows",
    [
        (row.name, row.kind, dataclasses.field(default=row.default, metadata={"option": row}))
        for row in (*FIELDS, *SYSTEM_FIELDS)
        if row.kind
    ],
    bases=(OurTrainingOptions,),
)


def find_option(name: str) -> Option:
    """Return the row of an option, or the default one, which is the most cautious, for a field that has none."""
    return TABLE.get(name.replace("-", "_"), Option(name))

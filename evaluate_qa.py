"""Evaluate a fine-tuned model, or score saved predictions or logits.

Examples:
    python evaluate_qa.py --model_name_or_path my_qa_model
    python evaluate_qa.py --model_name_or_path my_qa_model \\
        --compare other_model/evaluation
    python evaluate_qa.py --validation_file dev.json \\
        --predictions predictions.json --output_dir scored
    python evaluate_qa.py --validation_file dev.json --logits logits.npz \\
        --tokenizer_name my_qa_model --max_answer_length 20 --output_dir scored

Data and lengths default to the settings saved with the model.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback

    from qa.runtime.packages import report_missing_packages

    report_missing_packages()

    from qa.options.help import print_help_if_asked

    print_help_if_asked("evaluate_qa", __doc__)  # before the libraries load


import sys

from qa.options.arguments import DataArguments, EvaluationArguments, ModelArguments
from qa.options.combinations import check_evaluation_options
from qa.options.early import check_sources, read_early
from qa.options.table import TrainingRows
from qa.runtime.process import run_command


def main() -> None:
    argv = sys.argv[1:]
    if given := read_early((ModelArguments, DataArguments, TrainingRows, EvaluationArguments), argv):
        model_args, data_args, eval_args = given.build(ModelArguments, DataArguments, EvaluationArguments)
        check_evaluation_options(model_args, eval_args, given.value("output_dir"))
        check_sources(model_args, data_args)

    from qa.commands.evaluate import evaluate

    evaluate(argv, __doc__)


if __name__ == "__main__":
    run_command(main)

"""Check SQuAD-format data: report every problem, cut the questions into windows,
and summarize both.

Examples:
    python preprocess.py    # the data of config.yaml
    python preprocess.py --train_file my.json --output_dir checked \\
        --tokenizer_name albert/albert-base-v2
    python preprocess.py --train_file my.json --output_dir checked \\
        --strict            # any problem gives exit status 2
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback

    from qa.runtime.packages import report_missing_packages

    report_missing_packages()

    from qa.options.arguments import REPOSITORY
    from qa.options.help import print_help_if_asked

    print_help_if_asked("preprocess", __doc__, REPOSITORY / "config.yaml")  # before the libraries load


import sys

from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.early import check_sources, read_early
from qa.options.table import TrainingRows
from qa.runtime.process import run_command


def main() -> None:
    argv = sys.argv[1:]
    if given := read_early((ModelArguments, DataArguments, TrainingRows), argv, REPOSITORY / "config.yaml"):
        model_args, data_args = given.build(ModelArguments, DataArguments)
        check_sources(model_args, data_args, needs_model=False)

    from qa.commands.preprocess import preprocess

    preprocess(argv, __doc__)


if __name__ == "__main__":
    run_command(main)

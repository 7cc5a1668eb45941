"""Fine-tune an encoder for extractive question answering.

Examples:
    python train.py                             # config.yaml: ALBERT, SQuAD 1.1
    python train.py --config configs/demo.yaml  # a minute on a CPU, no network
    python train.py --plan --gpu_memory_gb 6    # memory it needs, no training
    python train.py --train_file my.json --validation_file my_dev.json
    torchrun --nproc_per_node 4 train.py        # four GPUs: docs/scaling.md
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback

    from qa.runtime.packages import report_missing_packages

    report_missing_packages()

    from qa.options.arguments import REPOSITORY
    from qa.options.help import print_help_if_asked

    print_help_if_asked("train", __doc__, REPOSITORY / "config.yaml")  # before the libraries load


import sys

from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.early import check_sources, read_early
from qa.options.stages import check_stages, split_test_options
from qa.options.table import TrainingRows
from qa.runtime.process import run_command


def main() -> None:
    test, argv = split_test_options(sys.argv[1:])
    if given := read_early((ModelArguments, DataArguments, TrainingRows), argv, REPOSITORY / "config.yaml"):
        check_stages(given, test, argv)
        check_sources(*given.build(ModelArguments, DataArguments))

    from qa.commands.train import train

    train(argv, test, __doc__)


if __name__ == "__main__":
    run_command(main)

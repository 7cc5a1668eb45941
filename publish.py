"""Publish the model of a finished run on the Hugging Face Hub.

Examples:
    python publish.py --model_dir my_qa_model --hub_model_id USER/NAME
    python publish.py --model_dir my_qa_model --hub_model_id USER/NAME --dry_run
    python publish.py --model_dir my_qa_model --hub_model_id USER/NAME \\
        --private true --tag v1

Log in first with `hf auth login` and a token with write access. Rerun the same
command to send only what is missing.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback

    from qa.runtime.packages import report_missing_packages

    report_missing_packages()

    from qa.options.help import print_help_if_asked

    print_help_if_asked("publish", __doc__)  # before the libraries load


from pathlib import Path

from qa.io.nearest import did_you_mean
from qa.options.arguments import PublishArguments
from qa.options.parser import parse_arguments
from qa.runtime.errors import UserError
from qa.runtime.process import run_command


def main() -> None:
    (args,) = parse_arguments((PublishArguments,), description=__doc__)
    if not args.model_dir or not args.hub_model_id:
        raise UserError("both are needed: --model_dir my_qa_model --hub_model_id USER/NAME")
    folder = Path(args.model_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"model_dir {args.model_dir}: no such folder{did_you_mean(folder)}")

    from qa.commands.publish import publish

    publish(folder, args.hub_model_id, args)


if __name__ == "__main__":
    run_command(main)

"""Ask a fine-tuned model questions about a text of any length.

Examples:
    python ask.py --model_name_or_path my_qa_model \\
        --question "Who wrote it?" --context "It was written by Ann."
    python ask.py --model_name_or_path my_qa_model \\
        --context_file book.txt    # then type one question after another
    python ask.py --model_name_or_path my_qa_model \\
        --input questions.jsonl --output answers.jsonl
    python ask.py --model_name_or_path my_qa_model \\
        --context_file book.txt --input - < questions.txt > answers.jsonl

From Python, in place of ``from transformers import pipeline``:

    from ask import pipeline
    answerer = pipeline("question-answering", model="my_qa_model")
    answerer(question="Who wrote it?", context="It was written by Ann.")
    # {"score": 0.98, "start": 18, "end": 21, "answer": "Ann"}
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback

    from qa.runtime.packages import report_missing_packages

    report_missing_packages()

    from qa.options.help import print_help_if_asked

    print_help_if_asked("ask", __doc__)  # before the libraries load
else:
    from qa.inference.answerer import QuestionAnswerer
    from qa.inference.pipeline import pipeline

    __all__ = ["QuestionAnswerer", "pipeline"]


from qa.options.arguments import AskArguments, DataArguments, ModelArguments
from qa.options.combinations import check_ask_options
from qa.options.early import check_model_path
from qa.options.parser import read_options
from qa.runtime.process import run_command


def main() -> None:
    given = read_options((ModelArguments, DataArguments, AskArguments), description=__doc__)
    model_args, _, ask = given.build()
    check_ask_options(model_args, ask)
    check_model_path(model_args.model_name_or_path)

    from qa.commands.ask import answer

    answer(given)


if __name__ == "__main__":
    run_command(main)

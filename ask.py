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


from pathlib import Path

from qa.data.streams import name_of, read_text
from qa.inference.answerer import QuestionAnswerer
from qa.inference.batch_file import answer_file, print_json_lines, read_questions
from qa.inference.pipeline import pipeline
from qa.inference.terminal import ask_repeatedly, print_answers
from qa.io.files import STDIO, is_device
from qa.model.weight_files import check_weight_files
from qa.options.arguments import AskArguments, DataArguments, ModelArguments
from qa.options.combinations import check_ask_options, warn_of_unused_threshold
from qa.options.parser import read_options
from qa.options.saved import saved_settings
from qa.runtime.console import table
from qa.runtime.errors import UserError
from qa.runtime.gpu_settings import cap_gpu_memory, use_freest_gpu
from qa.runtime.gpus import warn_of_unused_gpu
from qa.runtime.process import allow_tf32, configure_process, run_command

__all__ = ["QuestionAnswerer", "pipeline"]


def main() -> None:
    configure_process()
    kinds = ModelArguments, DataArguments, AskArguments
    given = read_options(kinds, description=__doc__)
    model_args, _, ask = given.build()
    check_ask_options(model_args, ask)  # errors of the command line before those of saved settings
    model_args, data_args, ask = given.over(saved_settings(model_args)).build()
    check_weight_files(model_args)
    if ask.device is None:
        use_freest_gpu("--device cuda:0 takes another")
        warn_of_unused_gpu("--device cpu")
    warn_of_unused_threshold(given.value("null_score_diff_threshold"), ask, data_args)
    context = read_text(ask.context_file) if ask.context_file else ask.context
    rows = list(read_questions(ask.input, context)) if ask.input else []
    if ask.input and not rows:
        raise UserError(f"{name_of(ask.input)}: contains no questions")
    answerer = QuestionAnswerer.load(
        model_args,
        data_args,
        ask.device,
        precision=ask.precision,
        top_k=ask.top_k,
        handle_impossible_answer=ask.handle_impossible_answer,
        align_to_words=ask.align_to_words,
        batch_size=ask.per_device_eval_batch_size,
    )
    cap_gpu_memory(answerer.device)
    allow_tf32(answerer.device.type == "cuda" and ask.precision != "fp32")
    if ask.input and ask.output in (None, STDIO):
        print_json_lines(answerer, rows)
    elif ask.input:
        answer_file(answerer, rows, Path(ask.output))
        if not is_device(Path(ask.output)):  # such as /dev/stdout
            print(table([("questions", f"{len(rows):,}"), ("answers", ask.output)]))
    elif ask.question:
        print_answers(next(answerer.stream([(ask.question, context)])), context)
    else:
        ask_repeatedly(answerer, context)


if __name__ == "__main__":
    run_command(main)

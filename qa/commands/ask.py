"""Answer questions: what ask.py does."""

from pathlib import Path

from qa.data.streams import name_of, read_text
from qa.inference.answerer import QuestionAnswerer
from qa.inference.batch_file import answer_file, print_json_lines, read_questions
from qa.inference.terminal import ask_repeatedly, print_answers
from qa.io.files import STDIO, is_device
from qa.model.weight_files import check_weight_files
from qa.options.combinations import warn_of_unused_threshold
from qa.options.parser import GivenOptions
from qa.options.saved import saved_settings
from qa.runtime.console import table
from qa.runtime.device_settings import cap_gpu_memory, configure_device, use_freest_gpu
from qa.runtime.errors import UserError
from qa.runtime.gpus import warn_of_unused_gpu
from qa.runtime.process import configure_process


def answer(given: GivenOptions) -> None:
    """Answer the question, those of a file, or those that are typed, and print or write the answers."""
    configure_process(reads_datasets=False)
    model_args, _, ask = given.build()
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
    configure_device(answerer.device, tf32=answerer.device.type == "cuda" and ask.precision != "fp32")
    cap_gpu_memory(answerer.device)
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

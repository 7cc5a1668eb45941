"""Start and end of a command; with ``device_settings`` the only module that changes process-wide settings.

``import qa`` changes none: a program that uses the package keeps its own logging, warnings and torch settings.
"""

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from qa.runtime.console import closing_bars, on_terminal, process_rank, warn
from qa.runtime.errors import UserError
from qa.runtime.packages import missing_packages_as_errors
from qa.runtime.streams import CLOSED_PIPE, checked_streams

LOGGED: set[str] = set()  # messages that are shown once
REPORT_DELAY = 5  # seconds that other processes wait for the main one to report the same error


def configure_process(reads_datasets: bool = True) -> None:
    """Configure the libraries for a command, and for the processes of a launcher.

    Every command calls this first once its options are read and the libraries are imported; from here on Ctrl-C raises
    KeyboardInterrupt. Of several processes only the main one prints; ``run_command`` also reports errors that occur in
    another one only.

    Args:
        reads_datasets: whether the command uses ``datasets``, which is not imported otherwise.
    """
    import torch  # the libraries are imported here, so that ``run_command`` needs none of them
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a file, lines keep their order with those of stderr
    if not on_terminal():
        disable_progress_bars()
    transformers_logging.disable_progress_bar()  # of reading and writing weights; training has its own
    logging.getLogger("transformers.training_args").addFilter(is_first)  # it warns whenever options are copied
    hub_logging.set_verbosity_error()  # hides its retries; a failed download is reported in one line
    threading.excepthook = report_thread_error
    # cuDNN's attention builds a plan for each new length, which can take longer than a step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if "LOCAL_RANK" in os.environ:
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is None or device.type == "mps":
            os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise accelerate does not connect these processes
        if device and device.type == "mps":
            warn("note: MPS does not support several processes: they compute on the CPU")
        local_rank = int(os.environ["LOCAL_RANK"])
        if device and device.type == "cuda" and local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)  # otherwise asking what a GPU can do takes memory of the first
    if process_rank():
        silence_process()
    if reads_datasets and (process_rank() or not on_terminal()):
        import datasets

        datasets.disable_progress_bars()


def silence_process() -> None:
    """Discard what this process prints to stdout and what its libraries log, until it ends."""
    from transformers.utils import logging as transformers_logging

    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    transformers_logging.set_verbosity_error()


def is_first(record: logging.LogRecord) -> bool:
    """Return whether a message has not been logged before."""
    repeated = record.msg in LOGGED
    LOGGED.add(record.msg)
    return not repeated


def report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, except TensorBoard's, whose errors are raised again by its next call."""
    if not type(args.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(args)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``, and write what it printed.

    A ``UserError`` becomes one line on stderr and exit status 2, as does a standard output that cannot be written. A
    closed pipe ends the command silently.
    """
    with checked_streams():
        status = exit_status(main)
        status = exit_status(lambda: sys.stdout.flush()) or status
    if status:
        sys.exit(status)


def exit_status(work: Callable[[], None]) -> int | str:
    """Run ``work``, report what it raises to end the command, and return the status to end it with."""
    try:
        with missing_packages_as_errors(), closing_bars():
            work()
    except UserError as error:
        if process_rank():  # the main process reports an error of all of them; then the launcher ends this one
            time.sleep(REPORT_DELAY)
            print(f"error in process {process_rank()}: {error}", file=sys.stderr)
        warn(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        warn("interrupted")
        return 130
    except BrokenPipeError:
        return CLOSED_PIPE
    except SystemExit as stop:
        return stop.code or 0
    return 0

"""Start and end of a command; the only module that changes process-wide settings.

``import qa`` changes none: a program that uses the package keeps its own logging, warnings and torch settings.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Callable

from qa.runtime.console import closing_bars, on_terminal, process_rank, warn
from qa.runtime.errors import UserError
from qa.runtime.packages import missing_packages_as_errors

REPORT_DELAY = 5  # seconds that other processes wait for the main one to report the same error


def configure_process() -> None:
    """Configure the libraries for a command, and for the processes of a launcher.

    Called first by every command's ``main``, before options are parsed. Of several processes only the main one
    prints; ``run_command`` also reports errors that occur in another one only.
    """
    import datasets  # the libraries are imported here, so that ``run_command`` needs none of them
    import torch
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a file, lines keep their order with those of stderr
    if not on_terminal():
        datasets.disable_progress_bars()
        disable_progress_bars()
    transformers_logging.disable_progress_bar()  # of reading and writing weights; training has its own
    hub_logging.set_verbosity_error()  # hides its retries; a failed download is reported in one line
    # cuDNN's attention builds a plan for each new length, which can take longer than a step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise accelerate does not connect processes on CPUs
    if process_rank():
        silence_process()


def silence_process() -> None:
    """Discard what this process prints to stdout and what its libraries log, until it ends."""
    import datasets
    from transformers.utils import logging as transformers_logging

    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()


def allow_tf32(allowed: bool) -> None:
    """Multiply fp32 matrices in TF32 on GPUs that support it, if ``allowed``."""
    import torch

    if allowed:
        torch.set_float32_matmul_precision("high")


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``; a ``UserError`` becomes one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):  # a file on Windows, or a C locale, cannot encode every answer
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with missing_packages_as_errors(), closing_bars():
            main()
    except UserError as error:
        if process_rank():  # the main process reports an error of all of them; then the launcher ends this one
            time.sleep(REPORT_DELAY)
            print(f"error in process {process_rank()}: {error}", file=sys.stderr)
        warn(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        warn("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

"""How a command starts and ends."""

import signal
import sys
import time
from collections.abc import Callable

from qa.runtime.console import process_rank, warn
from qa.runtime.errors import UserError

REPORT_DELAY = 5  # seconds that other processes wait for the main one to report the same error


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's ``main``; a ``UserError`` becomes one line on stderr and exit status 2."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        if process_rank():  # an error of all processes is the main one's to say, and the launcher then ends this one
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

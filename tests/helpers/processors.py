"""Say how fast this processor multiplies bf16 matrices, instead of measuring it."""

from qa.io.files import write_json
from qa.model import cpu_precision


def keep_speed(speed: float) -> None:
    """Keep a speed of bf16, relative to fp32, for this processor, where the next process finds it."""
    write_json(cpu_precision.speeds_file(), {cpu_precision.kept_name(): speed})
    cpu_precision.bf16_speed.cache_clear()

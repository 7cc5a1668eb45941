"""The state of torch's random generators on any device."""

from contextlib import AbstractContextManager

import torch


def fork_rng(device: torch.device, enabled: bool = True) -> AbstractContextManager[None]:
    """Restore the states of the CPU's generator and of the device's when the block ends, if ``enabled``."""
    devices = [] if device.type == "cpu" else [device]
    return torch.random.fork_rng(devices, enabled, device_type=device.type)

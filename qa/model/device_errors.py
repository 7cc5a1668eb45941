"""Which errors of torch mean that memory ran out, and after which of them the device cannot be used any more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from qa.runtime.errors import UserError, one_line

# Torch's allocators raise ``torch.OutOfMemoryError``. Libraries and drivers that allocate by themselves do not:
# their errors are known by these parts of their messages.
OUT_OF_MEMORY = {
    "out of memory": "CUDA's and HIP's runtimes and drivers, expandable segments, torch's allocators for MPS and XPU",
    "CUBLAS_STATUS_ALLOC_FAILED": "cuBLAS and cuBLASLt: handles and workspaces",
    "HIPBLAS_STATUS_ALLOC_FAILED": "hipBLAS",
    "rocblas_status_memory_error": "rocBLAS",
    "CUDNN_STATUS_ALLOC_FAILED": "cuDNN 8",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED": "cuDNN 9",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED": "cuDNN 9; pinned memory",
    "hipErrorOutOfMemory": "HIP, where an error is named",
    "cudaErrorMemoryAllocation": "CUDA, where an error is named",
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY": "Intel's Unified Runtime",
    "DefaultCPUAllocator: can't allocate memory": "torch on a CPU",
    "DefaultCPUAllocator: not enough memory": "torch on a CPU, Windows",
}

# "The process must be terminated and relaunched", says NVIDIA's runtime API of these, in its list of error types. HIP
# uses the same words. CUDA's other errors mention "device-side assertions" in a hint, hence "triggered".
DEVICE_LOST = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected",
    "UR_RESULT_ERROR_DEVICE_LOST",
)


class DeviceLostError(RuntimeError):
    """The device failed again when it was used after an error."""


def is_device_lost(error: BaseException) -> bool:
    """Return whether this process cannot use the device any more after ``error``."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        isinstance(error, DeviceLostError) or any(part in text for part in DEVICE_LOST)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that memory for tensors ran out, on a GPU or a CPU, and the device still works."""
    if not isinstance(error, RuntimeError) or is_device_lost(error):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in OUT_OF_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Return whether ``error`` is of memory or of the device, whatever was being done."""
    return is_out_of_memory(error) or is_device_lost(error)


def free_cached_memory(reason: str) -> None:
    """Return cached memory to the device, and check that it still works. Call it outside of ``except``.

    The traceback of an error keeps the activations of the computation that failed.

    Args:
        reason: the error before, in one line.

    Raises:
        DeviceLostError: the device does not work any more.
    """
    if not torch.accelerator.is_available():
        return
    try:
        torch.accelerator.empty_cache()
        torch.accelerator.synchronize()
    except RuntimeError as error:
        raise DeviceLostError(f"{reason}; and then: {one_line(error)}") from None


@contextmanager
def device_errors_in_one_line(memory_advice: str, rerun_advice: Callable[[], str]) -> Iterator[None]:
    """Raise a UserError for memory that ran out, and for a device that cannot be used any more.

    Args:
        memory_advice: how to use less memory. rerun_advice: returns what to do after any error.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory: {memory_advice}; {rerun_advice()}") from None
        if isinstance(error, DeviceLostError):
            raise UserError(f"out of memory, after which the GPU cannot be used: {error}; {rerun_advice()}") from None
        if is_device_lost(error):
            raise UserError(
                f"the GPU failed, and this process cannot use it any more: {one_line(error)}. That is not a lack of"
                f" memory; {rerun_advice()}. If it fails there again, CUDA_LAUNCH_BLOCKING=1 shows where"
            ) from None
        raise

"""What GPUs this machine has, what is free on them, and why torch cannot use one. Tools of their drivers are asked."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qa.runtime.console import warn
from qa.runtime.errors import one_line

if TYPE_CHECKING:
    import torch

TIMEOUT = 10  # seconds for a driver's tool; a GPU that hangs is not to stop a run on the CPU
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
NOTHING = ("", "-1", "none", "void", "NoDevFiles")  # values of these variables that hide all GPUs
DEVICES = Path("/dev")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each, also where nvidia-smi is not installed
AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")  # of amdgpu: processors and GPUs that compute
# As ``gfx_target_version`` in these nodes: GPUs that torch's builds for ROCm support. Graphics in a laptop's processor
# are in these nodes as well, and mostly not supported.
AMD_TARGETS = {90000, 90006, 90008, 90010, 90402, 90500, 100300, 110000, 110001, 110002, 110501, 120000, 120001}
WHEELS = "https://download.pytorch.org/whl"
ROCM_WHEELS = "rocm7.2"


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU, as nvidia-smi describes it; ``free`` and ``total`` are bytes."""

    index: int
    uuid: str
    name: str
    free: int
    total: int


def find_nvidia_smi() -> str | None:
    """Return the path of nvidia-smi: that in PATH, or where drivers for Windows and WSL install it."""
    folders = [Path("/usr/lib/wsl/lib"), Path(os.environ.get("SYSTEMROOT", "")) / "System32"]
    folders.append(Path(os.environ.get("PROGRAMFILES", "")) / "NVIDIA Corporation" / "NVSMI")
    name = "nvidia-smi.exe" if sys.platform == "win32" else "nvidia-smi"
    installed = [str(folder / name) for folder in folders if folder.is_absolute() and (folder / name).is_file()]
    return shutil.which("nvidia-smi") or next(iter(installed), None)


def ask_nvidia(*arguments: str) -> str:
    """Return what nvidia-smi prints; empty if it is not installed, fails or hangs."""
    path = find_nvidia_smi()
    if path is None:
        return ""
    try:
        # Arguments are constants; the program is the driver's own.
        ran = subprocess.run(
            [path, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.decode(errors="replace")


def query_nvidia(*fields: str) -> list[list[str]]:
    """Return the values of some fields for each GPU; empty if a field is unknown to the driver."""
    text = ask_nvidia(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def list_cards() -> list[Card]:
    """Return NVIDIA's GPUs, whatever this process may see of them."""
    cards = []
    for index, uuid, name, free, total in query_nvidia("index", "uuid", "name", "memory.free", "memory.total"):
        if index.isdigit() and free.isdigit() and total.isdigit():  # "[N/A]" for a part of a GPU
            cards.append(Card(int(index), uuid, name, int(free) << 20, int(total) << 20))
    return cards


def visible_cards(cards: list[Card], visible: str | None, by_bus: bool) -> list[Card]:
    """Return the cards that ``CUDA_VISIBLE_DEVICES`` allows; empty if that is not certain.

    Args:
        visible: its value; None if it is not set. by_bus: whether CUDA numbers cards as nvidia-smi does. Otherwise it
            starts with the fastest, and numbers are certain only where all cards are of one kind.
    """
    if visible is None:
        return cards
    numbered = by_bus or len({card.name for card in cards}) == 1
    found = []
    for entry in filter(None, (part.strip() for part in visible.split(","))):
        if entry.isdigit():
            found += [card for card in cards if card.index == int(entry) and numbered]
        else:
            found += [card for card in cards if card.uuid.startswith(entry)]
    return found


def find_freest() -> tuple[Card, int] | None:
    """Return the visible card with the most free memory, and how many are visible; None if that is unknown."""
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    cards = visible_cards(list_cards(), os.environ.get("CUDA_VISIBLE_DEVICES"), by_bus)
    return (max(cards, key=lambda card: card.free), len(cards)) if len(cards) > 1 else None


def explain_unused_gpu() -> str | None:
    """Return which GPU torch cannot use, why, and how to change that; None if there is none, or it is hidden.

    A GPU without device files, as in a container that was started without it, counts as none.
    """
    import torch

    if torch.accelerator.is_available() or any(os.environ.get(name, "0").strip() in NOTHING for name in HIDING):
        return None
    return explain_nvidia() or explain_amd()


def warn_of_unused_gpu(option: str) -> None:
    """Print a note on a GPU that torch cannot use, and the ``option`` that leaves it out."""
    if reason := explain_unused_gpu():
        warn(f"note: {reason}. Without this note: {option}")


def explain_nvidia() -> str | None:
    import torch

    banner = ask_nvidia()
    cards = query_nvidia("name", "compute_cap") or [[name, ""] for (name,) in query_nvidia("name")]
    files = sorted(DEVICES.glob("nvidia[0-9]*"))
    if not cards and not (files and NVIDIA_GPUS.is_dir() and any(NVIDIA_GPUS.iterdir())):
        return None
    name, capability = cards[0] if cards else ("an NVIDIA GPU", "")
    found = re.search(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)", banner)
    supported = (int(found[1]), int(found[2])) if found else None
    if torch.version.cuda is None:
        kind = "AMD GPUs" if torch.version.hip else "CPUs only"
        cause = (
            f"the installed torch {torch.__version__} is built for {kind}: {choose_nvidia_build(supported, capability)}"
        )
    elif supported and supported[0] < int(torch.version.cuda.partition(".")[0]):
        version = ".".join(map(str, supported))
        cause = (
            f"its driver supports CUDA up to {version}, and the installed torch {torch.__version__} needs"
            f" {torch.version.cuda}: {choose_nvidia_build(supported, capability)}, or update the driver"
        )
    else:
        cause = explain_access(files) or explain_torch()
    return f"{name} is not used: {cause}"


def choose_nvidia_build(supported: tuple[int, int] | None, capability: str) -> str:
    """Return the command that installs a torch for a driver and a GPU.

    Builds for CUDA 12 run with every driver for CUDA 12, and on GPUs from before Turing (7.5), which those for CUDA 13
    have dropped; GPUs from Blackwell on (10.0) need the latter.

    Args:
        supported: the CUDA version of the driver. capability: of the GPU, such as 8.6; empty if unknown.
    """
    major = supported[0] if supported else 12
    level = float(capability) if re.fullmatch(r"\d+\.\d+", capability) else 8.0
    newest = level >= 10 or (level >= 7.5 and major >= 13)
    command = reinstall("cu130" if newest else "cu126")
    return command if major >= (13 if newest else 12) else f"update the driver (nvidia.com/drivers), then {command}"


def reinstall(build: str) -> str:
    """Return the command that replaces torch by another build of the same version."""
    import torch

    version = torch.__version__.partition("+")[0]
    return f"pip install --force-reinstall torch=={version} --index-url {WHEELS}/{build}"


def explain_access(files: list[Path]) -> str | None:
    """Return how to get permission for device files; None if one may be opened, or there are none."""
    if not files or any(os.access(file, os.R_OK | os.W_OK) for file in files):
        return None
    try:
        group = files[0].group()
    except (KeyError, NotImplementedError, OSError):
        group = "video"
    return f"this account may not open {files[0]}: sudo usermod -aG {group} $USER, then log in again"


def explain_torch() -> str:
    """Return torch's own reason for not using a GPU."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"torch {torch.__version__} reports: {one_line(error)}"
    return f"torch {torch.__version__} does not find it"


def amd_targets() -> Iterator[int]:
    """Yield the architectures of the nodes that amdgpu computes on; 0 for processors."""
    for path in sorted(AMD_NODES.glob("*/properties")):
        try:
            found = re.search(r"^gfx_target_version (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:  # a node that this account may not read
            continue
        yield int(found[1]) if found else 0


def explain_amd() -> str | None:
    import torch

    driver = DEVICES / "kfd"
    if not driver.exists() or not AMD_TARGETS & set(amd_targets()):
        return None
    if torch.version.hip is None:
        kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
        cause = f"the installed torch {torch.__version__} is built for {kind}: {reinstall(ROCM_WHEELS)}"
    else:
        cause = explain_access([driver]) or explain_torch()
    return f"an AMD GPU is not used: {cause}"


@dataclass(frozen=True)
class DeviceMemory:
    """The bytes of a GPU that this process may take, which include what it has, and all that the GPU has."""

    free: int
    total: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Return the memory of a GPU; None if it is not known, and on a CPU.

    Apple's GPUs share the memory of the processor: theirs is what the system recommends to take at most.
    """
    import torch

    if device.type == "mps":
        size = torch.mps.recommended_max_memory()
        return DeviceMemory(size, size)
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(free + torch.cuda.memory_reserved(device), total)


def spills_to_system_memory() -> bool:
    """Return whether drivers use system memory when that of the GPU is full: on Windows and in WSL."""
    return sys.platform == "win32" or "microsoft" in platform.release().lower()


def used_gpus() -> list[str]:
    """Return the names of the GPUs that this run computes on: one for each process on this host."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    if kind.type == "mps":
        return ["Apple GPU (MPS)"]
    module, processes = torch.get_device_module(kind), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    alone = processes == 1
    numbers = [module.current_device()] if alone else range(min(processes, module.device_count()))
    return [module.get_device_name(number) for number in numbers]


def describe_peak_memory() -> str | None:
    """Return the peak memory of the GPU as text; None if none was used. Apple's GPUs record no peak."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind and kind.type == "mps":
        size, when = torch.mps.driver_allocated_memory(), " at the end"
    else:
        size, when = torch.accelerator.max_memory_allocated() if kind else 0, ""
    return f"{size / 2**30:.2f} GiB on the GPU{when}" if size else None

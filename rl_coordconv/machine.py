"""What a program may use of the machine it runs on, and how a result names that machine and its packages."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from rl_coordconv.errors import UserError

SPEED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides how fast a CPU multiplies matrices, as Linux names it."""

PACKAGES = ("rl-coordconv", "torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "tensorboard")
"""What computes the results."""


def available_cores() -> int:
    """Return how many CPU cores this process may run on, which containers and clusters limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe(device: str = "auto") -> dict[str, str]:
    """
    Return what a speed depends on: CPU with its flags and cores, PyTorch's use of it, GPU.

    :param device: Where it computes: cuda:N names that GPU
    """
    model, flags = _cpu()
    found = {
        "cpu": model,
        "cpu_flags": " ".join(flag for flag in SPEED_FLAGS if flag in flags),
        "cores": str(available_cores()),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device != "cpu" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(device if device.startswith("cuda") else None)
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the CPU or a GPU, is used up."""
    words = ("can't allocate memory", "Storage size calculation overflowed")  # a RuntimeError of torch
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in words)


def check_fits_memory(size: int) -> None:
    """
    Refuse what this machine could never hold, before it is tried: Linux ends the process that asks for it.

    :param size: In bytes
    :raises MemoryError: It has less
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > there:
        raise MemoryError(f"{size / 2**30:,.0f} GB needed, {there / 2**30:,.0f} GB there")


@contextlib.contextmanager
def enough_memory(lower: str, when: str = " before the first step") -> Iterator[None]:
    """
    Around what needs much memory: say what to lower where there is not enough.

    :param lower: The options that its size depends on
    :param when: When that would be, for the message
    :raises UserError: Memory is used up
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory{when}: lower {lower}") from None


def check_device(device: str) -> None:
    """
    Refuse a device that this machine does not have.

    :param device: auto, cpu, cuda or cuda:N
    :raises UserError: The device is unknown or absent
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"unknown device '{device}': use auto, cpu, cuda or cuda:N")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= count:
            raise UserError(
                f"device '{device}' is not there: PyTorch sees {count} CUDA devices (use auto or cpu)"
            )


def versions(device: str = "auto") -> dict[str, str]:
    """
    Return the versions of what computes the results, and :func:`describe`.

    :param device: Where it computes
    """
    system = [platform.system(), platform.machine(), "".join(platform.libc_ver())]
    found = {"python": platform.python_version(), "platform": "-".join(filter(None, system))}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    found["torch"] = str(torch.__version__)  # names the build (cpu, cu130), which PyPI's metadata leaves out
    return found | describe(device)


def _cpu() -> tuple[str, set[str]]:
    """Return the model of the CPU and its flags, from Linux; elsewhere Python's name for it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return " ".join(name.split()), set(flags[1].split()) if flags else set()

"""What a program may use of the machine it runs on, and how a result names that machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

SPEED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides how fast a CPU multiplies matrices, as Linux names it."""


def available_cores() -> int:
    """Return how many CPU cores this process may run on, which containers and clusters limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe() -> dict[str, str]:
    """Return what a speed depends on: CPU with its flags and cores, PyTorch's use of it, GPU."""
    model, flags = _cpu()
    found = {
        "cpu": model,
        "cpu_flags": " ".join(flag for flag in SPEED_FLAGS if flag in flags),
        "cores": str(available_cores()),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> tuple[str, set[str]]:
    """Return the model of the CPU and its flags, from Linux; elsewhere Python's name for it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return " ".join(name.split()), set(flags[1].split()) if flags else set()

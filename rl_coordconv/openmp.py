"""How OpenMP's threads wait between two operations; it is read once, when PyTorch is loaded."""

import os

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
"""
They spin for a moment (GNU's OpenMP, with PyTorch on Linux: some tenth of a millisecond) and then sleep.

By default they spin for milliseconds on cores that the emulators need; without spinning, waking them costs
as much as a small operation takes.
"""


def wait_briefly() -> None:
    """Let threads wait as :data:`WAITING` says, unless the environment says how; before ``import torch``."""
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)

"""What bfloat16 autocast does to numbers, at float32's speed on any machine."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class RoundToBF16(TorchFunctionMode):
    """
    Round inputs and outputs of convolutions and linear layers, and the gradients of both, to bfloat16.

    A product of two bfloat16 numbers is exact in float32, in which bfloat16 units add up too: so these are
    the numbers of ``torch.autocast(dtype=torch.bfloat16)``, but for the order of sums and for CoordConv:
    autocast adds the positional term in bfloat16 and keeps coordinates in float32, here it is the reverse,
    which makes features with CoordConv differ from autocast's as much as float32's do.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.conv2d, F.linear):
            return func(*args, **(kwargs or {}))
        rounded = [_Round.apply(value) if isinstance(value, torch.Tensor) else value for value in args]
        return _Round.apply(func(*rounded, **(kwargs or {})))


class _Round(torch.autograd.Function):
    """Round values on the way forward, and gradients on the way back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0].bfloat16().float()

"""What the networks of all tasks share: He's initial weights, and how many numbers are trained."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def he_weights(module: nn.Module) -> None:
    """Set He's initial weights (arXiv:1502.01852): they keep the scale through layers with ReLU."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        # A transposed convolution's weight has inputs first, which PyTorch takes for outputs.
        transposed = isinstance(module, nn.ConvTranspose2d)
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out" if transposed else "fan_in", nonlinearity="relu"
        )
        if module.bias is not None:
            module.bias.zero_()


def count_parameters(model: nn.Module) -> int:
    """Return how many trained numbers a network has."""
    return sum(parameter.numel() for parameter in model.parameters())

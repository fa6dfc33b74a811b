"""Coordinates as images: the channels that the paper's layer concatenates (section 3, figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_coordconv.errors import UserError


def coordinate_map(
    height: int,
    width: int,
    with_r: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """
    Return the coordinate channels x, y and, with ``with_r``, r.

    Both axes span [-1, 1] by their own length; an axis of length 1 is 0; ``r = sqrt(x² + y²)``.

    :param height: Pixels along y
    :param width: Pixels along x
    :param with_r: Add the distance from the centre
    :param device: Where to make it
    :param dtype: Floating-point type
    :return: Tensor ``(2 or 3, height, width)``
    """
    x = _axis(width, device, dtype).expand(height, width)
    y = _axis(height, device, dtype).unsqueeze(1).expand(height, width)
    return torch.stack([x, y, (x * x + y * y).sqrt()] if with_r else [x, y])


def _axis(length: int, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
    # Whole numbers first: the centre is exactly 0, the ends exactly 1, and the two halves mirror each other.
    steps = torch.arange(1 - length, length, 2, device=device)
    return (steps.to(torch.promote_types(dtype, torch.float32)) / max(length - 1, 1)).to(dtype)


class AddCoords(nn.Module):
    """
    Append coordinate channels, from -1 to 1, to an image, as the paper draws it (section 3, figure 3).

    :param with_r: Add the distance from the centre as a third coordinate
    """

    def __init__(self, with_r: bool = False) -> None:
        super().__init__()
        self.with_r = with_r

    def forward(self, input: Tensor) -> Tensor:
        """
        Return the input followed by its coordinates.

        :param input: ``(batch or none, channels, height, width)`` of a floating-point type
        :return: ``(batch or none, channels + 2 or 3, height, width)`` of the same type
        :raises UserError: The input is of integers, which have no room for coordinates
        """
        if not input.is_floating_point():
            raise UserError(f"AddCoords takes floating-point images, not {input.dtype}: give images.float()")
        height, width = input.shape[-2:]
        coords = coordinate_map(height, width, self.with_r, input.device, input.dtype)
        return torch.cat([input, coords.expand(*input.shape[:-3], -1, -1, -1)], dim=-3)

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        return f"with_r={self.with_r}"

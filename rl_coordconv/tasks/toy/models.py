"""
The networks of the toy tasks, CoordConv and plain, after Liu et al. 2018 (arXiv:1807.03247).

Wherever ``(x, y)`` goes in or comes out, it is in CoordConv's own coordinates, -1 to 1 across the canvas.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_coordconv import layers
from rl_coordconv.errors import UserError


class CoordClassifier(nn.Module):
    """
    Tiled ``(x, y)`` with coordinates, then 1 x 1 convolutions 32-32-64-64-1: 7,553 parameters.

    The tiled input is the same at all pixels and the coordinates are the same for all samples, so the first
    convolution is a vector per sample plus a map of the positions: the literal ``(batch, 4, height, width)``
    input never exists. A 1 x 1 convolution treats pixels one by one, so any subset of them can be asked for.

    :param canvas: Side of the canvas in pixels
    """

    coords: Tensor

    def __init__(self, canvas: int) -> None:
        super().__init__()
        self.canvas = canvas
        self.first = layers.CoordConv2d(2, 32, 1)
        self.rest = nn.Sequential(
            nn.Conv2d(32, 32, 1), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 1, 1)
        )
        coords = layers.coordinate_map(canvas, canvas).flatten(1).T.contiguous()
        self.register_buffer("coords", coords, persistent=False)

    def forward(self, xy: Tensor, pixels: Tensor | None = None) -> Tensor:
        """
        Return a logit for every pixel, or for the given ones.

        :param xy: ``(batch, 2) float32``
        :param pixels: Flat pixels wanted of each sample, ``(batch, n) int64``
        :return: ``(batch, canvas * canvas or n) float32``
        """
        image = self.first.weight.flatten(1)
        positions = F.linear(self.coords, self.first.coord_weight.flatten(1))
        hidden = positions if pixels is None else F.embedding(pixels, positions)
        hidden = hidden + F.linear(xy, image, self.first.bias).unsqueeze(1)
        for layer in self.rest.children():
            assert isinstance(layer, nn.Conv2d)
            hidden = F.linear(F.relu(hidden, inplace=True), layer.weight.flatten(1), layer.bias)
        return hidden.squeeze(-1)


class CoordRenderer(nn.Module):
    """
    The classifier, its softmax as a soft one-hot map, then five 3 x 3 convolutions 8-8-16-16-1 that paint.

    :param canvas: Side of the canvas in pixels
    """

    def __init__(self, canvas: int) -> None:
        super().__init__()
        self.classifier = CoordClassifier(canvas)
        channels = (1, 8, 8, 16, 16, 1)
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            blocks += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.painter = nn.Sequential(*blocks[:-1])

    def forward(self, xy: Tensor) -> Tensor:
        """
        Return the logits of the painted pixels.

        :param xy: ``(batch, 2) float32``
        :return: ``(batch, canvas * canvas) float32``
        """
        canvas = self.classifier.canvas
        one_hot = self.classifier(xy).softmax(dim=1).unflatten(1, (1, canvas, canvas))
        return self.painter(one_hot).flatten(1)


class CoordRegressor(nn.Module):
    """
    Coordinates, convolutions 8-8-8 (1 x 1), 8-2 (3 x 3) without activations, global max-pool: 906 parameters.

    It can be exact: where the last 5 x 5 window lies whole inside of the square, the image's part of the sum
    is largest; among those places the maximum picks the one farthest along the axis, a fixed step from the
    centre.

    From random weights it gets stuck wherever an output starts with a negative weight on the image: the
    maximum then lies far from the square, and no other place has a gradient. So it starts as an average, with
    positive weights on the image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            layers.CoordConv2d(1, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 2, 3, padding=1),
        )
        self._start_as_average()

    @torch.no_grad()
    def _start_as_average(self) -> None:
        """Make the outputs means over a window: of the image, less 1, and of small random coordinates."""
        first, *others = self.convolutions.children()
        assert isinstance(first, layers.CoordConv2d)
        first.weight.abs_()
        first.weight.div_(first.weight.mean())
        for layer in others:
            assert isinstance(layer, nn.Conv2d)
            layer.weight.abs_()
            layer.weight.div_(layer.weight.sum(dim=(1, 2, 3), keepdim=True))
        for layer in (first, *others):
            assert isinstance(layer.bias, Tensor)
            layer.bias.fill_(-1 if layer is others[-1] else 0)

    def forward(self, image: Tensor) -> Tensor:
        """
        Return x and y.

        :param image: ``(batch, 1, height, width) float32``
        :return: ``(batch, 2) float32``
        """
        return self.convolutions(image).amax(dim=(2, 3))


class Deconvolution(nn.Module):
    """
    Stride-2 transposed convolutions from 1 x 1 to the canvas, with batch norm and ReLU between.

    On 64 x 64, width 2 and filter 3 it has six layers and about 410,000 parameters, as in the paper.

    :param canvas: Side of the canvas in pixels, a power of two
    :param width: Multiplier of the channels 64-64-64-32-32
    :param filter: Side of the filters, 2 to 4
    :raises UserError: These transposed convolutions do not make that canvas
    """

    def __init__(self, canvas: int, width: int = 2, filter: int = 3) -> None:
        super().__init__()
        depth = canvas.bit_length() - 1
        if canvas != 2**depth or depth < 4:
            raise UserError(f"canvas is {canvas}: the plain network needs a power of two, 16 or more")
        if filter not in (2, 3, 4):
            raise UserError(f"filter is {filter}: it must be 2, 3 or 4")
        channels = [2, *[64 * width] * (depth - 3), 32 * width, 32 * width, 1]
        padding = (filter - 1) // 2
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            blocks += [
                nn.ConvTranspose2d(a, b, filter, 2, padding, 2 - filter + 2 * padding),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*blocks[:-2])

    def forward(self, xy: Tensor) -> Tensor:
        """
        Return a logit for every pixel.

        :param xy: ``(batch, 2) float32``
        :return: ``(batch, canvas * canvas) float32``
        """
        return self.layers(xy[:, :, None, None]).flatten(1)


class ConvRegressor(nn.Sequential):
    """
    Image to ``(x, y)`` without coordinates, the stack that the paper uses for each split.

    ``uniform``: four 3 x 3 convolutions of 16 channels, each with a 2 x 2 max-pool, then dense 64 and 2.
    ``quadrant``: eight 3 x 3 convolutions, every second one with stride 2, batch norm and ReLU between, two
    output maps and global average pooling (no dense layer that could tie weights to unseen places).

    :param canvas: Side of the canvas in pixels, 16 or more
    :param split: uniform or quadrant
    """

    def __init__(self, canvas: int, split: str) -> None:
        if canvas < 16:
            raise UserError(f"canvas is {canvas}: the plain network needs 16 or more")
        blocks: list[nn.Module] = []
        if split == "uniform":
            for a in (1, 16, 16, 16):
                blocks += [nn.Conv2d(a, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            blocks += [nn.Flatten(), nn.Linear(16 * (canvas // 16) ** 2, 64), nn.ReLU()]
            blocks += [nn.Linear(64, 2)]
        else:
            channels = (1, 16, 16, 16, 32, 32, 32, 64, 64)
            for i, (a, b) in enumerate(itertools.pairwise(channels)):
                blocks += [nn.Conv2d(a, b, 3, 1 + i % 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
            blocks += [nn.Conv2d(64, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*blocks)


def count_parameters(model: nn.Module) -> int:
    """Return how many trained numbers a network has."""
    return sum(parameter.numel() for parameter in model.parameters())


def make_model(task: str, arch: str, split: str, canvas: int, width: int = 2, filter: int = 3) -> nn.Module:
    """
    Return a new network.

    :param task: classification, rendering or regression
    :param arch: coordconv or conv
    :param split: The plain regression network depends on it
    :param canvas: Side of the canvas in pixels
    :param width: Width of the plain transposed convolutions
    :param filter: Filter size of the plain transposed convolutions
    :raises UserError: The plain network cannot make that canvas
    """
    if task == "regression":
        return CoordRegressor() if arch == "coordconv" else ConvRegressor(canvas, split)
    if arch == "conv":
        return Deconvolution(canvas, width, filter)
    return CoordClassifier(canvas) if task == "classification" else CoordRenderer(canvas)

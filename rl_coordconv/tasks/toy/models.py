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
from rl_coordconv.tasks.networks import he_weights

# The paper's two kinds of stack, each with and without coordinates.
ARCHS = {
    "coordconv": ("pixelwise", True),
    "coordconv-blind": ("pixelwise", False),
    "conv": ("convolutions", False),
    "conv-coords": ("convolutions", True),
}
IMAGE_GAIN = 4.0


class PixelClassifier(nn.Module):
    """
    Tiled ``(x, y)`` with coordinates, then 1 x 1 convolutions 32-32-64-64-1: 7,553 parameters.

    The tiled input is the same at all pixels and the coordinates are the same for all samples, so the first
    convolution is a vector per sample plus a map of the positions: the literal ``(batch, 4, height, width)``
    input never exists. A 1 x 1 convolution treats pixels one by one, so any subset of them can be asked for.

    :param canvas: Side of the canvas in pixels
    :param coordinates: False leaves the coordinates out; every pixel then looks the same
    """

    coords: Tensor

    def __init__(self, canvas: int, coordinates: bool = True) -> None:
        super().__init__()
        self.canvas = canvas
        self.first = (layers.CoordConv2d if coordinates else nn.Conv2d)(2, 32, 1)
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
        positions = self._positions()
        hidden = positions if pixels is None else F.embedding(pixels, positions)
        hidden = hidden + F.linear(xy, self.first.weight.flatten(1), self.first.bias).unsqueeze(1)
        for layer in self.rest.children():
            assert isinstance(layer, nn.Conv2d)
            hidden = F.linear(F.relu(hidden, inplace=True), layer.weight.flatten(1), layer.bias)
        return hidden.squeeze(-1)

    def _positions(self) -> Tensor:
        if isinstance(self.first, layers.CoordConv2d):
            return F.linear(self.coords, self.first.coord_weight.flatten(1))
        return self.coords.new_zeros(len(self.coords), self.first.out_channels)


class Renderer(nn.Module):
    """
    A classifier, its softmax as a soft one-hot map, then five 3 x 3 convolutions 8-8-16-16-1 that paint.

    The painter starts with He's weights: from PyTorch's a single bright pixel hardly shows after five layers.

    :param classifier: ``(batch, 2)`` to a logit for every pixel
    :param canvas: Side of the canvas in pixels
    """

    def __init__(self, classifier: nn.Module, canvas: int) -> None:
        super().__init__()
        self.classifier, self.canvas = classifier, canvas
        channels = (1, 8, 8, 16, 16, 1)
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            blocks += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.painter = nn.Sequential(*blocks[:-1])
        self.painter.apply(he_weights)

    def forward(self, xy: Tensor) -> Tensor:
        """
        Return the logits of the painted pixels.

        :param xy: ``(batch, 2) float32``
        :return: ``(batch, canvas * canvas) float32``
        """
        one_hot = self.classifier(xy).softmax(dim=1).unflatten(1, (1, self.canvas, self.canvas))
        return self.painter(one_hot).flatten(1)


class MaxPoolRegressor(nn.Module):
    """
    Coordinates, convolutions 8-8-8 (1 x 1), 8-2 (3 x 3) without activations, global max-pool: 906 parameters.

    It can be exact: where the last 5 x 5 window lies whole inside of the square, the image's part of the sum
    is largest; among those places the maximum picks the one farthest along the axis, a fixed step from the
    centre.

    From random weights it gets stuck: where an output has a negative weight on the image, the maximum lies
    far from the square; where both outputs start alike, they learn ``(x + y) / 2``. So it starts as two
    averages of the image and of random coordinates, each over channels of its own, and strongly enough on the
    image (:data:`IMAGE_GAIN`) for the maximum to stay on the square while the coordinates are learned.

    :param coordinates: False leaves the coordinates out
    """

    def __init__(self, coordinates: bool = True) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            (layers.CoordConv2d if coordinates else nn.Conv2d)(1, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 2, 3, padding=1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self._start_as_averages()

    @torch.no_grad()
    def _start_as_averages(self) -> None:
        """Make each output the mean of four channels over a window; coordinates' weights stay random."""
        first, *hidden, last = (layer for layer in self.convolutions if isinstance(layer, nn.Conv2d))
        first.weight.fill_(IMAGE_GAIN)
        halves = torch.eye(2).repeat_interleave(4, dim=1) / 4
        for layer in (*hidden, last):
            channels = halves if layer is last else torch.eye(8)
            layer.weight.copy_(channels[:, :, None, None] / layer.weight[0, 0].numel())
        for layer in (first, *hidden, last):
            assert isinstance(layer.bias, Tensor)
            layer.bias.fill_(-IMAGE_GAIN if layer is last else 0)

    def forward(self, image: Tensor) -> Tensor:
        """
        Return x and y.

        :param image: ``(batch, 1, height, width) float32``
        :return: ``(batch, 2) float32``
        """
        # Twice as fast on a CPU as with the channels first.
        return self.convolutions(image.to(memory_format=torch.channels_last)).amax(dim=(2, 3))


class Deconvolution(nn.Module):
    """
    Stride-2 transposed convolutions from 1 x 1 to the canvas, with batch norm and ReLU between.

    On 64 x 64, width 2 and filter 3 it has six layers and about 410,000 parameters, as in the paper.

    :param canvas: Side of the canvas in pixels, a power of two
    :param width: Multiplier of the channels 64-64-64-32-32
    :param filter: Side of the filters, 2 to 4
    :param coordinates: True adds coordinates to the input of every layer
    :raises UserError: These transposed convolutions do not make that canvas
    """

    def __init__(self, canvas: int, width: int = 2, filter: int = 3, coordinates: bool = False) -> None:
        super().__init__()
        depth = canvas.bit_length() - 1
        if canvas != 2**depth or depth < 4:
            raise UserError(f"canvas is {canvas}: the plain network needs a power of two, 16 or more")
        if filter not in (2, 3, 4):
            raise UserError(f"filter is {filter}: it must be 2, 3 or 4")
        channels = [2, *[64 * width] * (depth - 3), 32 * width, 32 * width, 1]
        padding = (filter - 1) // 2
        layer = layers.CoordConvTranspose2d if coordinates else nn.ConvTranspose2d
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            blocks += [
                layer(a, b, filter, 2, padding, 2 - filter + 2 * padding),
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
    Image to ``(x, y)``, the stack that the paper uses without coordinates for each split.

    ``uniform``: four 3 x 3 convolutions of 16 channels, each with a 2 x 2 max-pool, then dense 64 and 2.
    ``quadrant``: eight 3 x 3 convolutions, every second one with stride 2, batch norm and ReLU between, two
    output maps and global average pooling (no dense layer that could tie weights to unseen places).

    :param canvas: Side of the canvas in pixels, 16 or more
    :param split: uniform or quadrant
    :param coordinates: True adds coordinates to the input of every convolution
    """

    def __init__(self, canvas: int, split: str, coordinates: bool = False) -> None:
        if canvas < 16:
            raise UserError(f"canvas is {canvas}: the plain network needs 16 or more")
        conv = layers.CoordConv2d if coordinates else nn.Conv2d
        blocks: list[nn.Module] = []
        if split == "uniform":
            for a in (1, 16, 16, 16):
                blocks += [conv(a, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            blocks += [nn.Flatten(), nn.Linear(16 * (canvas // 16) ** 2, 64), nn.ReLU()]
            blocks += [nn.Linear(64, 2)]
        else:
            channels = (1, 16, 16, 16, 32, 32, 32, 64, 64)
            for i, (a, b) in enumerate(itertools.pairwise(channels)):
                blocks += [conv(a, b, 3, 1 + i % 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
            blocks += [conv(64, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*blocks)


def make_model(task: str, arch: str, split: str, canvas: int, width: int = 2, filter: int = 3) -> nn.Module:
    """
    Return a new network.

    :param task: classification, rendering or regression
    :param arch: One of :data:`ARCHS`
    :param split: The plain regression network depends on it
    :param canvas: Side of the canvas in pixels
    :param width: Width of the transposed convolutions
    :param filter: Filter size of the transposed convolutions
    :raises UserError: The transposed convolutions cannot make that canvas
    """
    stack, coordinates = ARCHS[arch]
    if task == "regression":
        return (
            MaxPoolRegressor(coordinates)
            if stack == "pixelwise"
            else ConvRegressor(canvas, split, coordinates)
        )
    classifier: nn.Module = (
        PixelClassifier(canvas, coordinates)
        if stack == "pixelwise"
        else Deconvolution(canvas, width, filter, coordinates)
    )
    return classifier if task == "classification" else Renderer(classifier, canvas)

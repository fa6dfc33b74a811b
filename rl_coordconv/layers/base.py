"""What both CoordConv layers share: the second parameter, how it starts, and textbook weights that split."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from rl_coordconv.errors import UserError, choose
from rl_coordconv.layers.positional import PositionalTerm

CoordInit = Literal["concat", "zeros"]
CoordScale = float | Literal["window", "root"]
COORD_INITS = ("zeros", "concat")
Self = TypeVar("Self", bound="CoordConvLayer")


class CoordConvLayer(nn.Module):
    """
    What :class:`CoordConv2d` and :class:`CoordConvTranspose2d` share: a second parameter, ``coord_weight``.

    A mixin before PyTorch's layer. The coordinates that the layer sees are ``coord_scale`` times those of
    :func:`coordinate_map`. Coordinates are nearly constant within a window, so all ``kh * kw`` weights of a
    filter pull together, and one optimizer step moves the positional bias ``kh * kw`` times as far as a bias;
    ``"window"`` divides by ``kh * kw``, which is right for Adam. Where steps are in proportion to gradients
    (SGD, A2C's RMSprop) the scale counts twice, and ``"root"`` divides by the root of ``kh * kw``. The
    functions that the layer can compute stay the same.
    """

    _plain: Callable[..., nn.Module]
    weight: Tensor
    bias: Tensor | None
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]

    def __init__(
        self,
        *args: Any,
        with_r: bool = False,
        coord_init: CoordInit = "concat",
        coord_scale: CoordScale = 1.0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(with_r, bool):
            raise UserError(f"with_r is {with_r!r}: it must be true or false")
        super().__init__(*args, **kwargs)
        self.with_r = with_r
        self.coord_init = choose("coord_init", coord_init, COORD_INITS)
        self.coord_scale = check_coord_scale(coord_scale, math.prod(self.kernel_size))
        self._cached = PositionalTerm()
        shape = self._split(self._literal_layer("meta").weight)[1].shape
        self.coord_weight = nn.Parameter(self.weight.new_empty(shape))
        self._reset_coordinates(reset)

    def reset_parameters(self) -> None:
        """Initialise all parameters as PyTorch does, coordinates as ``coord_init`` says."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "coord_weight"):  # not yet while PyTorch's constructor runs
            self._reset_coordinates(reset)

    def _literal_layer(self, device: Any) -> Any:
        """Return PyTorch's layer on the concatenated input, which draws numbers unless it is on "meta"."""
        channels = self.in_channels + self.groups * (3 if self.with_r else 2)
        size = (channels, self.out_channels, self.kernel_size)
        options = {"groups": self.groups, "bias": self.bias is not None, "dtype": self.weight.dtype}
        return self._plain(*size, **options, device=device)

    def _split(self, concat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image part and the coordinate part of a weight of the literal concat."""
        raise NotImplementedError

    def _concat(self, image: Tensor, coords: Tensor) -> Tensor:
        """Return what :meth:`_split` takes apart."""
        raise NotImplementedError

    def concat_weight(self) -> Tensor:
        """
        Return the weight of the literal concat layer that computes the same.

        :return: As ``weight``, but with ``in_channels / groups + 2 or 3`` input channels in each group, of
            which the last are coordinates
        """
        return self._concat(self.weight, self.coord_weight * self.coord_scale)

    @torch.no_grad()
    def _reset_coordinates(self, initialise: Callable[[Any], Any], before: Tensor | None = None) -> None:
        """
        Start the coordinates at zero, or draw them as ``initialise`` draws the literal concat layer's.

        The random state stays as it was, so that what is drawn next does not depend on coordinates.

        :param initialise: Changes the parameters of a layer
        :param before: Weight of the literal concat layer before that
        """
        if self.coord_init == "zeros":
            self.coord_weight.zero_()
            return
        with torch.random.fork_rng(devices=[]):
            # Numbers of their own: the next layer's weights are drawn from the state that is left behind.
            seed = int(torch.randint(2**62, (), device="cpu"))
            twin = self._literal_layer("cpu")
            if before is not None:
                twin.weight.copy_(before)
                if self.bias is not None:
                    twin.bias.copy_(self.bias)
            torch.default_generator.manual_seed(seed)
            initialise(twin)
        self.coord_weight.copy_(self._split(twin.weight)[1])

    def apply(self: Self, fn: Callable[[nn.Module], Any]) -> Self:
        """
        Apply ``fn`` as any module does; if it changed ``weight``, it is applied to coordinates likewise.

        :param fn: E.g. SB3's orthogonal initialisation, which draws both together; or a clamp
        """
        if self.coord_init == "zeros":  # whatever initialises the image's weights
            return super().apply(fn)
        before, weight = self._concat(self.weight, self.coord_weight).detach(), self.weight.detach().clone()
        super().apply(fn)
        if not torch.equal(weight, self.weight):
            self._reset_coordinates(fn, before)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Split the weight of a literal concat layer, as version 0.1.0 and others have it."""
        weight, coords = state_dict.get(f"{prefix}weight"), f"{prefix}coord_weight"
        if (
            coords not in state_dict
            and weight is not None
            and weight.shape == self._literal_layer("meta").weight.shape
        ):
            image, part = self._split(weight)
            state_dict[f"{prefix}weight"], state_dict[coords] = image, part / self.coord_scale
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def coord_weight_ratio(self) -> float:
        """
        Return the norm of the coordinates' part over that of all of ``concat_weight()``.

        0 is translation invariant. Two layers that compute the same have the same ratio, whatever their
        ``coord_scale``.
        """
        coords = float(self.coord_weight.detach().norm()) * abs(self.coord_scale)
        whole = math.hypot(float(self.weight.detach().norm()), coords)
        return coords / whole if whole else 0.0

    def extra_repr(self) -> str:
        """Return what ``print(module)`` shows."""
        scale = f"{self.coord_scale:.4g}"
        return (
            f"{super().extra_repr()}, with_r={self.with_r}, coord_init={self.coord_init}, coord_scale={scale}"
        )


def reset(layer: Any) -> None:
    """Initialise a layer as PyTorch does."""
    layer.reset_parameters()


def check_coord_scale(coord_scale: Any, window: int) -> float:
    """
    Return the number that a ``coord_scale`` means.

    :param coord_scale: A number, ``"window"`` or ``"root"``
    :param window: Pixels of the layer's window, kh * kw
    :raises UserError: It is something else, zero or not finite
    """
    if coord_scale == "window":
        return 1 / window
    if coord_scale == "root":
        return 1 / math.sqrt(window)
    is_number = isinstance(coord_scale, Real) and not isinstance(coord_scale, bool)
    if not is_number or not math.isfinite(coord_scale) or coord_scale == 0:
        raise UserError(
            f"coord_scale is {coord_scale!r}: it must be 'window', 'root' or a finite number other than 0"
        )
    return float(coord_scale)

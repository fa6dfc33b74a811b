"""
SB3 features extractors in which chosen convolutions see coordinates, and the table of their names.

``EXTRACTORS`` is where an extractor is registered, one of your own as well::

    EXTRACTORS["mine"] = Extractor(MyExtractor)

Names ending in ``-pool`` average or take the maximum over space where the others flatten: such a network has
10 to 20 times fewer parameters, and tells where something is by the image's borders only, and by coordinates.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from rl_coordconv.errors import UserError, choose, nearest
from rl_coordconv.extractors.image import ImageExtractor, Pool, see_coordinates
from rl_coordconv.extractors.impala import CoordConvImpalaCNN, CoordConvImpalaPool
from rl_coordconv.extractors.nature import CoordConvCombinedExtractor, CoordConvNatureCNN, CoordConvNaturePool
from rl_coordconv.machine import check_fits_memory, enough_memory, is_out_of_memory

__all__ = [
    "EXTRACTORS",
    "CoordConvCombinedExtractor",
    "CoordConvImpalaCNN",
    "CoordConvImpalaPool",
    "CoordConvNatureCNN",
    "CoordConvNaturePool",
    "Extractor",
    "ImageExtractor",
    "Pool",
    "check_extractor",
    "policy_kwargs",
    "see_coordinates",
]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """
    An entry of :data:`EXTRACTORS`.

    :param cls: SB3 features extractor: takes ``observation_space`` first; each further argument with a
        default is an option, in configs under ``extractor_kwargs`` where ``RunConfig`` has no such field
    :param fixed: Arguments that the name stands for, e.g. no coordinates
    """

    cls: type[BaseFeaturesExtractor]
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """Defaults of the constructor's arguments, with the parent's where it hands on ``**kwargs``."""
        found: dict[str, Any] = {}
        for cls in self.cls.__mro__:
            if "__init__" in vars(cls):
                parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
                with_default = [one for one in parameters if one.default is not one.empty]
                found = {one.name: one.default for one in with_default} | found
                if all(one.kind is not one.VAR_KEYWORD for one in parameters):
                    break
        return found

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments that a user may give."""
        hidden = {"normalized_image", *self.fixed}
        if "coord_layers" in self.fixed:
            hidden |= {"with_r", "coord_init", "coord_scale"}
        return tuple(name for name in self.arguments if name not in hidden)

    @property
    def defaults(self) -> dict[str, Any]:
        """What those arguments are where a user gives none, as plain values."""
        values = {name: self.arguments[name] for name in self.options}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


EXTRACTORS: dict[str, Extractor] = {
    "cnn": Extractor(NatureCNN),
    "coordconv": Extractor(CoordConvNatureCNN),
    "nature-pool": Extractor(CoordConvNaturePool, {"coord_layers": ()}),
    "coordconv-nature-pool": Extractor(CoordConvNaturePool),
    "impala": Extractor(CoordConvImpalaCNN, {"coord_layers": ()}),
    "coordconv-impala": Extractor(CoordConvImpalaCNN),
    "impala-pool": Extractor(CoordConvImpalaPool, {"coord_layers": ()}),
    "coordconv-impala-pool": Extractor(CoordConvImpalaPool),
}
"""All extractors by the name that configs and command lines use."""


def policy_kwargs(extractor: str = "coordconv", **options: Any) -> dict[str, Any]:
    """
    Return the ``policy_kwargs`` with which an SB3 algorithm gets an extractor.

    With them the network has no hidden layers behind the features, as SB3's ``CnnPolicy`` of A2C, PPO and DQN
    has it by default. SAC, TD3 and TQC need some: change ``net_arch``.

    :param extractor: A name of :data:`EXTRACTORS`
    :param options: Arguments of its class, e.g. ``coord_layers=[0, 1]``; where images are floats already,
        ``normalized_image=True``, with ``normalize_images=False`` for the policy
    :return: ``features_extractor_class``, ``features_extractor_kwargs`` and an empty ``net_arch``
    :raises UserError: There is no such extractor, or it has no such option
    """
    entry = EXTRACTORS[choose("extractor", extractor, EXTRACTORS)]
    accepted = {*entry.options, "normalized_image"} & entry.arguments.keys()
    for name in options:
        if name not in accepted:
            hint = nearest(name, entry.options)
            raise UserError(
                f"extractor '{extractor}' has no option '{name}': it takes {', '.join(entry.options)}{hint}"
            )
    return {
        "features_extractor_class": entry.cls,
        "features_extractor_kwargs": {**entry.fixed, **options},
        "net_arch": [],
    }


def check_extractor(name: str, options: dict[str, Any], observation_space: spaces.Space) -> None:
    """
    Refuse an extractor that cannot be made, before anything is created for it.

    :param name: A name of :data:`EXTRACTORS`
    :param options: Arguments of :func:`policy_kwargs`
    :param observation_space: What it is to see
    :raises UserError: It is unknown, lacks an option that is given, refuses its value, or is too large
    """
    key = (repr(EXTRACTORS.get(name)), repr(sorted(options.items())), repr(observation_space))
    if key in _MADE:  # making one takes 20 ms, and a comparison has hundreds of runs
        return
    kwargs = policy_kwargs(name, **options)
    with torch.random.fork_rng(devices=[]), enough_memory("features_dim, or width where there is one"):
        make = functools.partial(
            kwargs["features_extractor_class"], observation_space, **kwargs["features_extractor_kwargs"]
        )
        try:
            check_fits_memory(COPIES_OF_WEIGHTS * _bytes(make))
            make()
        except (UserError, AssertionError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            what = str(error) or "its class refuses the options"
            raise UserError(f"extractor '{name}': {what}") from None
    _MADE.add(key)


def _bytes(make: Callable[[], nn.Module]) -> int:
    """Return how much memory the weights of a network will take; 0 where that cannot be told beforehand."""
    try:
        with torch.device("meta"):
            parameters = [*make().parameters()]
    except (UserError, AssertionError, TypeError, ValueError, RuntimeError):
        return 0  # told once it is made
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


COPIES_OF_WEIGHTS = 4
"""In training: themselves, their gradients, and Adam's two means."""

_MADE: set[tuple[str, str, str]] = set()

"""Coordinates in whole models: give them to a trained agent, see what it makes of them, read old states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import Tensor, nn
from torch.optim import SGD, RMSprop

from rl_coordconv.errors import UserError
from rl_coordconv.extractors import (
    CoordConvCombinedExtractor,
    CoordConvNatureCNN,
    ImageExtractor,
    see_coordinates,
)
from rl_coordconv.layers import CoordConvLayer, CoordScale

Model = TypeVar("Model", bound=BaseAlgorithm)
WITH_COORDINATES: dict[type[nn.Module], type[nn.Module]] = {
    NatureCNN: CoordConvNatureCNN,
    CombinedExtractor: CoordConvCombinedExtractor,
}
"""The class that has the same network with coordinates, by SB3's class."""


def add_coordinates(
    model: Model,
    coord_layers: Sequence[int] = (0,),
    with_r: bool = False,
    coord_scale: CoordScale | None = None,
) -> Model:
    """
    Let a trained SB3 model see coordinates: it acts as before at first, and learns on from there.

    Coordinate weights start at zero; the optimizer keeps its state of all other weights. Saving and loading
    work as before.

    :param model: A2C, PPO, DQN or another algorithm with one optimizer; it is changed in place
    :param coord_layers: Which convolutions of its features extractor, from 0
    :param with_r: Add the distance from the centre as a third coordinate
    :param coord_scale: As in :class:`~rl_coordconv.layers.CoordConv2d` (None: ``root`` where the optimizer is
        A2C's RMSprop or SGD, else ``window``)
    :return: The model
    :raises UserError: Its extractor is neither SB3's for images nor derived from one of this package's, or
        has coordinates; it has several optimizers, or there is no such convolution; the model is as it was
    """
    networks, counterpart = _that_can_see(model)
    if isinstance(coord_layers, Sequence) and not len(coord_layers):
        raise UserError("coord_layers is empty: name one convolution or more")
    policy: Any = model.policy
    if coord_scale is None:
        coord_scale = "root" if isinstance(policy.optimizer, (RMSprop, RMSpropTFLike, SGD)) else "window"
    options = {"with_r": with_r, "coord_init": "zeros", "coord_scale": coord_scale}
    before = {id(parameter): name for name, parameter in policy.named_parameters()}
    for network in networks:
        see_coordinates(network, coord_layers, **options)  # type: ignore[arg-type]
    _hand_over(policy.optimizer, policy, before)
    policy.features_extractor_class = counterpart
    policy.features_extractor_kwargs = {
        **policy.features_extractor_kwargs,
        "coord_layers": list(coord_layers),
        **options,
    }
    model.policy_kwargs = {
        **model.policy_kwargs,
        # What SB3 adds for its own NatureCNN only.
        "net_arch": policy.net_arch,
        "features_extractor_class": policy.features_extractor_class,
        "features_extractor_kwargs": policy.features_extractor_kwargs,
    }
    if hasattr(model, "forget_graphs"):  # this package's PPO and A2C
        model.forget_graphs()
    return model


def _that_can_see(model: BaseAlgorithm) -> tuple[Sequence[nn.Module], Any]:
    """
    Return the networks of a model that can be given coordinates, and the extractor's class that has them.

    :raises UserError: It has none, or sees coordinates, or its optimizer could not go on
    """
    if not isinstance(model, BaseAlgorithm):
        raise UserError(f"add_coordinates takes an SB3 algorithm, e.g. a PPO, not a {type(model).__name__}")
    policy: Any = model.policy
    if not hasattr(policy, "optimizer"):
        raise UserError(f"{type(model).__name__} has an optimizer for each network: it must have one for all")
    if (groups := len(policy.optimizer.param_groups)) != 1:
        raise UserError(f"the model's optimizer has {groups} groups of parameters: it must have one")
    kind = policy.features_extractor_class
    counterpart = WITH_COORDINATES.get(kind, kind)
    networks = [module.cnn for module in policy.modules() if isinstance(module, (NatureCNN, ImageExtractor))]
    if not networks or "coord_layers" not in inspect.signature(counterpart).parameters:
        names = " or ".join(plain.__name__ for plain in WITH_COORDINATES)
        raise UserError(
            f"extractor {kind.__name__} cannot be given coordinates: it must be SB3's {names}, or one of "
            "this package's"
        )
    if any(isinstance(module, CoordConvLayer) for module in policy.modules()):
        raise UserError("this model sees coordinates already")
    return networks, counterpart


def _hand_over(optimizer: torch.optim.Optimizer, policy: nn.Module, before: dict[int, str]) -> None:
    """
    Let an optimizer go on with a policy whose convolutions have been replaced, in its parameters' order.

    :param optimizer: With one group of parameters
    :param policy: With new parameters, some of which have the names of old ones
    :param before: Names of the parameters that were there before, by ``id``
    """
    [group] = optimizer.param_groups
    states = {before[id(old)]: optimizer.state.get(old) for old in group["params"]}
    learned = {name: new for name, new in policy.named_parameters() if plain_name(name) in states}
    group["params"] = list(learned.values())
    optimizer.state.clear()
    for name, new in learned.items():
        if states.get(name):
            optimizer.state[new] = states[name]
    lay_out_as_parameters(optimizer)


def lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer's state the memory format of its parameters, which fused kernels take for granted."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            is_like_it = isinstance(value, Tensor) and value.shape == parameter.shape
            if is_like_it and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def plain_name(name: str) -> str:
    """Return the name of the weight beside which coordinate weights stand, else the name itself."""
    return name.removesuffix("coord_weight") + "weight" if name.endswith(".coord_weight") else name


def split_optimizer_state(policy: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """
    Return the optimizer state of a policy whose CoordConv layers were literal concat layers.

    Version 0.1.0 kept image and coordinates in one weight, and so did the optimizer.

    :param policy: The policy as it is now
    :param state: From ``optimizer.state_dict()``
    :return: The same in terms of ``weight`` and ``coord_weight``; a state of today's kind as it is
    """
    layers = {name: layer for name, layer in policy.named_modules() if isinstance(layer, CoordConvLayer)}
    names = [name for name, _ in policy.named_parameters()]
    old_names = [name for name in names if not name.endswith(".coord_weight")]
    groups = state["param_groups"]  # of an optimizer of one's own there may be several
    if not layers or len(groups) > 1 or len(groups[0]["params"]) != len(old_names):
        return state
    new: dict[int, dict[str, Any]] = {}
    for index, name in enumerate(names):
        values = state["state"].get(old_names.index(plain_name(name)))
        prefix, _, kind = name.rpartition(".")
        if values is not None:
            layer = layers.get(prefix) if kind.endswith("weight") else None
            new[index] = _part_of(layer, kind, values) if layer else values
    return {"state": new, "param_groups": [{**groups[0], "params": list(range(len(names)))}]}


def _part_of(layer: CoordConvLayer, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimizer knows of a literal weight, for its image or its coordinate part."""
    part = {}
    for key, value in values.items():
        part[key] = value
        if isinstance(value, Tensor) and value.dim() == layer.weight.dim():
            image, coords = layer._split(value)
            # Gradients of coord_weight are coord_scale times those of the literal weight.
            scale = layer.coord_scale ** (2 if "sq" in key else 1)
            part[key] = image.clone() if kind == "weight" else coords * scale
        elif isinstance(value, Tensor):
            part[key] = value.clone()
    return part


def coord_weight_ratios(module: nn.Module) -> dict[str, float]:
    """
    Return how much of each CoordConv layer's weight norm sits on coordinates, by the layer's name.

    An extractor that actor and critic share is named once, as inside of the extractor: ``cnn.0``.

    :param module: E.g. an SB3 policy
    """
    return {name: layer.coord_weight_ratio() for name, layer in coordinate_layers(module).items()}


def coordinate_layers(module: nn.Module) -> dict[str, CoordConvLayer]:
    """Return a module's CoordConv layers by their names in the features extractor."""
    return {
        name.removeprefix("features_extractor."): layer
        for name, layer in module.named_modules()
        if isinstance(layer, CoordConvLayer)
    }

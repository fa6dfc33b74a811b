"""Peers of the layer benchmark: SB3's NatureCNN, plain and with coordinates, forward and backward."""

from __future__ import annotations

import copy
import functools
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from rl_coordconv.benchmark.setting import Benchmark, Cases, Peer, Setting
from rl_coordconv.extractors import CoordConvNatureCNN
from rl_coordconv.layers import AddCoords

SPACE = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
IMAGES = {"forward": 2048, "forward+backward": 1024}
"""Images in one piece of work."""


def literal_concat() -> nn.Module:
    """Return the network as the paper draws it, and as other packages compute it."""
    network = NatureCNN(SPACE)
    network.cnn[0] = nn.Sequential(AddCoords(), nn.Conv2d(6, 32, 8, 4))
    return network


def layer_peer(make: Any, **kwargs: Any) -> Peer:
    """
    Return a network's cases: small and large batches, in both memory formats.

    :param make: Returns the network
    """

    def build(setting: Setting) -> Cases:
        network = make(**kwargs)
        cases: Cases = {}
        for memory_format in ("contiguous", "channels_last"):
            kind: Any = {
                "memory_format": getattr(torch, memory_format.replace("contiguous", "contiguous_format"))
            }
            copied = copy.deepcopy(network).to(setting.device).to(**kind)
            for batch in (8, 256):
                images = torch.rand(batch, *SPACE.shape, device=setting.device).contiguous(**kind)
                for mode in IMAGES:
                    case = f"{mode}, batch {batch}, {memory_format}"
                    cases[case] = functools.partial(run_network, copied, images, mode)
        return cases

    return build


def run_network(network: nn.Module, images: torch.Tensor, mode: str) -> int:
    """
    Run a network on as many batches as a piece of work has.

    :param images: (batch, 4, 84, 84) float32
    :param mode: ``forward`` (without gradients, as in a rollout) or ``forward+backward``
    :return: The number of images
    """
    for _ in range(IMAGES[mode] // len(images)):
        if mode == "forward":
            with torch.no_grad():
                network(images)
        else:
            network.zero_grad()
            network(images).sum().backward()
    return IMAGES[mode]


LAYER = Benchmark(
    title="SB3's NatureCNN, without and with coordinates",
    peers={
        "cnn": layer_peer(NatureCNN, observation_space=SPACE),
        "coordconv": layer_peer(CoordConvNatureCNN, observation_space=SPACE),
        "coordconv-all": layer_peer(CoordConvNatureCNN, observation_space=SPACE, coord_layers=(0, 1, 2)),
        "literal-concat": layer_peer(literal_concat),
    },
    reference="cnn",
    unit="images/s",
    seconds=0.5,
    rounds=5,
)

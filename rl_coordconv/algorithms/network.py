"""A policy as functions of frames: in which precision and memory format it computes, and how compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from rl_coordconv.algorithms.losses import sample
from rl_coordconv.extractors import ImageExtractor
from rl_coordconv.policies import CoordActorPolicy

COVERED = (ActorCriticPolicy, ActorCriticCnnPolicy, CoordActorPolicy)
"""Policies whose functions :class:`Network` has; a subclass may have changed them."""
NO_CONTEXT = nullcontext()


class Network:
    """
    Compute an SB3 policy of uint8 frames and discrete actions; the policy itself stays as SB3 made it.

    Weights, heads and outputs are float32 whatever the precision.

    :param policy: The policy; :func:`is_covered` says which
    :param bf16: Compute features extractors in bfloat16 autocast
    :param channels_last: Convolve in the ``channels_last`` memory format
    :param compiled_for: Batch sizes to compile extractors for; other batches are rare and run as they are
    """

    def __init__(
        self, policy: ActorCriticPolicy, bf16: bool, channels_last: bool, compiled_for: set[int]
    ) -> None:
        self.policy = policy
        self.bf16 = bf16
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiled_for = compiled_for
        # And the critic's, if it has one of its own.
        extractors: list[nn.Module] = [policy.pi_features_extractor]
        if not policy.share_features_extractor:
            extractors.append(policy.vf_features_extractor)
        self.extractors: list[Callable[[Tensor], Tensor]] = list(extractors)
        is_rounded = bf16 and all(map(begins_with_convolution, extractors))
        self.image_dtype = torch.bfloat16 if is_rounded else torch.float32
        self.compiled = self.extractors
        self.acts_as_it_trains = not compiled_for and all(map(acts_as_it_trains, extractors))
        if channels_last:
            for extractor in extractors:
                extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled_for:  # without graphs of their own: they become part of ours
            self.compiled = [torch.compile(extractor, dynamic=False) for extractor in extractors]

    def __call__(
        self, frames: Tensor, within: AbstractContextManager[Any] = NO_CONTEXT
    ) -> tuple[Tensor, Tensor]:
        """
        Return action logits ``(batch, actions)`` and values ``(batch,)``, float32.

        :param frames: ``(batch, stack, height, width) uint8``, or what :meth:`scale` made of them
        :param within: Where features extractors compute
        """
        images = self.scale(frames)
        extractors = self.compiled if len(frames) in self.compiled_for else self.extractors
        device = frames.device.type
        # A CUDA graph must not depend on weights that were cast outside of it.
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16, cache_enabled=device == "cpu"), within:
            features = [extractor(images).float() for extractor in extractors]
        for_actor = self.policy.mlp_extractor.forward_actor(features[0])
        for_critic = self.policy.mlp_extractor.forward_critic(features[-1])
        return self.policy.action_net(for_actor), self.policy.value_net(for_critic).flatten()

    def scale(self, frames: Tensor) -> Tensor:
        """
        Return images from 0 to 1: float32 as in SB3, or bfloat16 where that makes no difference.

        :param frames: ``(batch, stack, height, width) uint8``, or such images
        """
        frames = frames.contiguous(memory_format=self.memory_format)
        return frames if frames.dtype == self.image_dtype else frames.to(self.image_dtype).div_(255)

    def unchanging(self) -> torch.autocast:
        """Return a context in which weights do not change, so that they are cast to bfloat16 once."""
        # An outer context, itself turned off: the cache of casts lasts as long as it.
        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=False)

    @torch.no_grad()
    def act(self, frames: Tensor, within: AbstractContextManager[Any] = NO_CONTEXT) -> Tensor:
        """
        Return sampled actions, values and log-probabilities, ``(3, batch) float32``.

        :param frames: As for :meth:`__call__`
        :param within: As for :meth:`__call__`
        """
        logits, values = self(frames, within)
        actions, log_prob = sample(logits)
        return torch.stack([actions.float(), values, log_prob])

    @torch.no_grad()
    def values(self, frames: Tensor) -> Tensor:
        """
        Return values ``(batch,) float32``.

        :param frames: As for :meth:`__call__`
        """
        return self(frames)[1]


def is_known(extractor: nn.Module) -> bool:
    """Return whether it is known what an extractor does with images: layers, one after the other."""
    return type(extractor).forward in (NatureCNN.forward, ImageExtractor.forward)


def begins_with_convolution(extractor: nn.Module) -> bool:
    """Return whether bfloat16 autocast rounds an extractor's images before anything else sees them."""
    first = next(module for module in extractor.modules() if not list(module.children()))
    return is_known(extractor) and isinstance(first, nn.Conv2d)


def acts_as_it_trains(extractor: nn.Module) -> bool:
    """Return whether an extractor computes the same, sample by sample, in training mode and out of it."""
    differ = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return is_known(extractor) and not any(isinstance(module, differ) for module in extractor.modules())


def is_covered(policy: BasePolicy) -> bool:
    """Return whether :class:`Network` computes what this policy does."""
    return (
        type(policy) in COVERED
        and isinstance(policy, ActorCriticPolicy)
        and isinstance(policy.action_space, spaces.Discrete)
        and is_image_space(policy.observation_space)
        and policy.normalize_images
        and not policy.use_sde
    )

"""
PPO's and A2C's losses as pure functions of tensors: Stable-Baselines3's arithmetic, to the bit in float32.

``torch.distributions`` checks its arguments on the host, for which a GPU has to be waited for: hence the few
lines of a categorical distribution here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities ``(batch, actions)`` as ``torch.distributions.Categorical`` computes them."""
    return logits - logits.logsumexp(dim=-1, keepdim=True)


def log_prob_and_entropy(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the log-probability of actions and the entropy of their distribution, ``(batch,)`` each.

    :param logits: ``(batch, actions)``
    :param actions: ``(batch,) int64``
    """
    log_probs = log_softmax(logits)
    entropy = -(log_probs * log_probs.softmax(dim=-1)).sum(-1)
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy


def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    """
    Draw actions from PyTorch's random state, the same as ``Categorical.sample``.

    ``torch.multinomial`` draws so too, but waits for a GPU to check its argument.

    :param logits: ``(batch, actions)``
    :return: Actions ``(batch,) int64`` and their log-probabilities ``(batch,)``
    """
    log_probs = log_softmax(logits)
    probs = log_probs.softmax(dim=-1)
    actions = (probs / torch.empty_like(probs).exponential_()).argmax(dim=-1)
    return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def normalized(advantages: Tensor) -> Tensor:
    """Return advantages ``(batch,)`` with mean 0 and standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


class PPOFigures(NamedTuple):
    """PPO's loss of a minibatch and what SB3 logs of it; scalars."""

    loss: Tensor
    policy_gradient_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    log_prob: Tensor,
    entropy: Tensor,
    values: Tensor,
    old_log_prob: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    *,
    clip_range: Tensor,
    clip_range_vf: Tensor | None,
    ent_coef: float,
    vf_coef: float,
) -> PPOFigures:
    """
    Return the clipped surrogate loss (Schulman et al. 2017, arXiv:1707.06347, equation 9) of a minibatch.

    All tensors are ``(batch,) float32``.

    :param log_prob: Of the actions, now
    :param entropy: Of the policy, now
    :param values: Of the states, now
    :param old_log_prob: Of the actions when they were taken
    :param old_values: Of the states at that time
    :param advantages: Normalised, if they are to be
    :param returns: Targets of the values
    :param clip_range: Of the probability ratio; a scalar of 64 bits, as Python would compute with it
    :param clip_range_vf: Of the change of values (None: no limit); likewise
    :param ent_coef: Weight of the entropy bonus
    :param vf_coef: Weight of the value loss
    """
    log_ratio = log_prob - old_log_prob
    ratio = torch.exp(log_ratio)
    clipped = advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(advantages * ratio, clipped).mean()
    if clip_range_vf is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range_vf, clip_range_vf)
    value_loss = F.mse_loss(returns, values)
    entropy_loss = -torch.mean(entropy)
    loss = policy_loss + ent_coef * entropy_loss + vf_coef * value_loss
    with torch.no_grad():
        approx_kl = torch.mean((torch.exp(log_ratio) - 1) - log_ratio)
        clip_fraction = torch.mean((torch.abs(ratio - 1) > clip_range).float())
    return PPOFigures(loss, policy_loss, value_loss, entropy_loss, approx_kl, clip_fraction)


class A2CFigures(NamedTuple):
    """A2C's loss of a rollout and what SB3 logs of it; scalars."""

    loss: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor


def a2c_loss(
    log_prob: Tensor,
    entropy: Tensor,
    values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    *,
    ent_coef: float,
    vf_coef: float,
) -> A2CFigures:
    """
    Return the loss of A2C (Mnih et al. 2016, arXiv:1602.01783) of a rollout; arguments as for PPO.

    :param log_prob: Of the actions
    :param entropy: Of the policy
    :param values: Of the states
    :param advantages: Normalised, if they are to be
    :param returns: Targets of the values
    :param ent_coef: Weight of the entropy bonus
    :param vf_coef: Weight of the value loss
    """
    policy_loss = -(advantages * log_prob).mean()
    value_loss = F.mse_loss(returns, values)
    entropy_loss = -torch.mean(entropy)
    return A2CFigures(
        policy_loss + ent_coef * entropy_loss + vf_coef * value_loss, policy_loss, value_loss, entropy_loss
    )

"""SB3's A2C with switches for speed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import stable_baselines3
import torch

from rl_coordconv.algorithms.activations import FEWEST_ENVS, Activations
from rl_coordconv.algorithms.losses import A2CFigures, a2c_loss, log_prob_and_entropy, normalized
from rl_coordconv.algorithms.network import NO_CONTEXT
from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm


class A2C(FastOnPolicyAlgorithm, stable_baselines3.A2C):
    """
    SB3's ``A2C`` and its arguments, with those of :class:`~.on_policy.FastOnPolicyAlgorithm`.

    An update trains on all that was just acted on, so that it need not compute the features once more: on the
    CPU, in ``channels_last``, the acts keep what it needs.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        can_recall = self.network is not None and self.network.acts_as_it_trains
        if can_recall and self.device.type == "cpu" and self.channels_last and self.n_envs >= FEWEST_ENVS:
            self.activations = Activations(self.policy, self.n_steps, self.n_envs)

    def update(self) -> dict[str, Any]:
        """Do one step with the whole rollout."""
        (chosen,) = self.rollout_buffer.minibatches()  # type: ignore[attr-defined]
        figures = self.captured_minibatch(chosen).cpu().numpy()
        self._n_updates += 1
        logged = {f"train/{name}": value for name, value in zip(A2CFigures._fields, figures, strict=True)}
        del logged["train/loss"]
        return logged

    def loss(self, chosen: torch.Tensor, *limits: torch.Tensor) -> A2CFigures:
        """Return A2C's loss of a rollout."""
        assert self.network is not None
        within: AbstractContextManager[Any] = NO_CONTEXT
        if self.activations is not None and self.activations.are_whole():
            chosen, within = torch.arange(len(chosen)), self.activations.recalled()
        batch = self.rollout_buffer.samples(chosen)  # type: ignore[attr-defined]
        logits, values = self.network(batch.observations, within)
        return a2c_loss(
            *log_prob_and_entropy(logits, batch.actions.long().flatten()),
            values,
            normalized(batch.advantages) if self.normalize_advantage else batch.advantages,
            batch.returns,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
        )

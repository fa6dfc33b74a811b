"""SB3's A2C with switches for speed."""

from __future__ import annotations

from typing import Any

import stable_baselines3
import torch

from rl_coordconv.algorithms.losses import A2CFigures, a2c_loss, log_prob_and_entropy, normalized
from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm


class A2C(FastOnPolicyAlgorithm, stable_baselines3.A2C):
    """SB3's ``A2C`` and its arguments, with those of :class:`~.on_policy.FastOnPolicyAlgorithm`."""

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
        batch = self.rollout_buffer.samples(chosen)  # type: ignore[attr-defined]
        logits, values = self.network(batch.observations)
        return a2c_loss(
            *log_prob_and_entropy(logits, batch.actions.long().flatten()),
            values,
            normalized(batch.advantages) if self.normalize_advantage else batch.advantages,
            batch.returns,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
        )

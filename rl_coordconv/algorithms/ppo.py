"""SB3's PPO with switches for speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import stable_baselines3
import torch

from rl_coordconv.algorithms.losses import PPOFigures, log_prob_and_entropy, normalized, ppo_loss
from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm


class PPO(FastOnPolicyAlgorithm, stable_baselines3.PPO):
    """SB3's ``PPO`` and its arguments, with those of :class:`~.on_policy.FastOnPolicyAlgorithm`."""

    def update(self) -> dict[str, Any]:
        """Pass over the rollout ``n_epochs`` times, or until the policy has moved too far."""
        limits = {"train/clip_range": self.clip_range(self._current_progress_remaining)}  # type: ignore[operator]
        if self.clip_range_vf is not None:
            limits["train/clip_range_vf"] = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        # Where a CUDA graph sees them change; in 64 bits, as Python computes with them.
        on_device = list(torch.tensor(list(limits.values()), dtype=torch.float64, device=self.device))
        figures: list[torch.Tensor] = []
        for _ in range(self.n_epochs):
            before = len(figures)
            goes_on = self._train_epoch(figures, on_device)
            self._n_updates += 1
            if not goes_on:
                break
        table = dict(zip(PPOFigures._fields, torch.stack(figures).cpu().numpy().T, strict=True))
        logged = {f"train/{name}": np.mean(values.astype(np.float64)) for name, values in table.items()}
        logged["train/approx_kl"] = np.mean(table["approx_kl"][before:])  # of the last epoch
        logged["train/loss"] = table["loss"][-1]
        return logged | limits

    def _train_epoch(self, figures: list[torch.Tensor], limits: list[torch.Tensor]) -> bool:
        """
        Pass once over the rollout.

        :param figures: To which the figures of each minibatch are added
        :param limits: Of the ratio, and of values if they have one
        :return: Whether training goes on, or the policy has moved further than ``target_kl``
        """
        for chosen in self.rollout_buffer.minibatches(self.batch_size):  # type: ignore[attr-defined]
            if self.target_kl is None:
                figures.append(self.captured_minibatch(chosen, *limits).clone())
                continue
            found = self.loss(chosen, *limits)
            figures.append(torch.stack([value.detach() for value in found]))
            if found.approx_kl > 1.5 * self.target_kl:  # waits for a GPU
                return False
            self.descend(found.loss)
        return True

    def loss(self, chosen: torch.Tensor, *limits: torch.Tensor) -> PPOFigures:
        """Return PPO's loss of a minibatch."""
        assert self.network is not None
        batch = self.rollout_buffer.samples(chosen)  # type: ignore[attr-defined]
        logits, values = self.network(batch.observations)
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = normalized(advantages)
        return ppo_loss(
            *log_prob_and_entropy(logits, batch.actions.long().flatten()),
            values,
            batch.old_log_prob,
            batch.old_values,
            advantages,
            batch.returns,
            clip_range=limits[0],
            clip_range_vf=limits[1] if len(limits) > 1 else None,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
        )

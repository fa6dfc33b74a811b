"""SB3's PPO with switches for speed."""

from __future__ import annotations

import numpy as np
import stable_baselines3
import torch

from rl_coordconv.algorithms.losses import PPOFigures, log_prob_and_entropy, normalized, ppo_loss
from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm


class PPO(FastOnPolicyAlgorithm, stable_baselines3.PPO):
    """SB3's ``PPO`` and its arguments, with those of :class:`~.on_policy.FastOnPolicyAlgorithm`."""

    def train(self) -> None:
        """Update the policy as SB3 does: the same minibatches, losses and logged values."""
        if self.network is None:
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        limits = {"train/clip_range": clip_range}
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
            limits["train/clip_range_vf"] = clip_range_vf
        figures: list[torch.Tensor] = []
        for _ in range(self.n_epochs):
            goes_on, before = True, len(figures)
            for batch in self.rollout_buffer.get(self.batch_size):
                logits, values = self.network(batch.observations)
                advantages = batch.advantages
                if self.normalize_advantage and len(advantages) > 1:
                    advantages = normalized(advantages)
                found = ppo_loss(
                    *log_prob_and_entropy(logits, batch.actions.long().flatten()),
                    values,
                    batch.old_log_prob,
                    batch.old_values,
                    advantages,
                    batch.returns,
                    clip_range=clip_range,
                    clip_range_vf=clip_range_vf,
                    ent_coef=self.ent_coef,
                    vf_coef=self.vf_coef,
                )
                figures.append(torch.stack([value.detach() for value in found]))
                if self.target_kl is not None and found.approx_kl > 1.5 * self.target_kl:
                    goes_on = False
                    break
                self.descend(found.loss)
            self._n_updates += 1
            if not goes_on:
                break
        table = dict(zip(PPOFigures._fields, torch.stack(figures).cpu().numpy().T, strict=True))
        logged = {f"train/{name}": np.mean(values.astype(np.float64)) for name, values in table.items()}
        logged["train/approx_kl"] = np.mean(table["approx_kl"][before:])  # of the last epoch
        logged["train/loss"] = table["loss"][-1]
        self.log_update(logged | limits)

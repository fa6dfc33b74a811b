"""SB3's PPO with switches for speed."""

from __future__ import annotations

import stable_baselines3

from rl_coordconv.algorithms.fast import FastOnPolicyAlgorithm


class PPO(FastOnPolicyAlgorithm, stable_baselines3.PPO):
    """SB3's ``PPO`` and its arguments, with those of :class:`~.fast.FastOnPolicyAlgorithm`."""

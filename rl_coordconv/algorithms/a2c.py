"""SB3's A2C with switches for speed."""

from __future__ import annotations

import stable_baselines3

from rl_coordconv.algorithms.fast import FastOnPolicyAlgorithm


class A2C(FastOnPolicyAlgorithm, stable_baselines3.A2C):
    """SB3's ``A2C`` and its arguments, with those of :class:`~.fast.FastOnPolicyAlgorithm`."""

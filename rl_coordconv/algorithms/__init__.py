"""SB3 algorithms as this project uses them."""

from __future__ import annotations

import rl_coordconv.algorithms.openmp  # noqa: F401

# isort: split
from pathlib import Path

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.algorithms.build import build
from rl_coordconv.runs.agent import load_run


def load_agent(folder: Path | str, device: str = "auto") -> OnPolicyAlgorithm:
    """
    Return the agent in a folder, without running pickled code.

    :param folder: From ``scripts/export.py``, or a run folder
    :param device: auto, cpu, cuda or cuda:N
    :return: An SB3 algorithm, ready to ``predict``
    :raises UserError: The folder is missing or damaged, hashes or shapes differ
    """
    return load_run(folder, build, device)[0]


__all__ = ["build", "load_agent"]

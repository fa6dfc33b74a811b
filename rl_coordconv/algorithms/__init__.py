"""SB3's PPO and A2C with switches for speed, and how a run's config becomes an algorithm."""

from rl_coordconv.algorithms.a2c import A2C
from rl_coordconv.algorithms.build import build, from_spaces
from rl_coordconv.algorithms.ppo import PPO
from rl_coordconv.hyperparameters import ALGORITHMS, Algorithm

__all__ = ["A2C", "ALGORITHMS", "PPO", "Algorithm", "build", "from_spaces"]

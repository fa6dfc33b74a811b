"""CoordConv for reinforcement learning with Stable-Baselines3."""

from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.extractors import CoordConvCombinedExtractor, CoordConvImpalaCNN, CoordConvNatureCNN
from rl_coordconv.layers import AddCoords, CoordConv2d, CoordConvTranspose2d

__version__ = "0.1.0"

__all__ = [
    "AddCoords",
    "CoordConv2d",
    "CoordConvCombinedExtractor",
    "CoordConvImpalaCNN",
    "CoordConvNatureCNN",
    "CoordConvTranspose2d",
    "make_atari_vec_env",
]

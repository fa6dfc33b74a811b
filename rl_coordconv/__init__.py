"""CoordConv for reinforcement learning with Stable-Baselines3."""

from rl_coordconv.coordinates import add_coordinates
from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.errors import UserError
from rl_coordconv.extractors import (
    EXTRACTORS,
    CoordConvCombinedExtractor,
    CoordConvImpalaCNN,
    CoordConvImpalaPool,
    CoordConvNatureCNN,
    CoordConvNaturePool,
    Extractor,
    policy_kwargs,
)
from rl_coordconv.layers import AddCoords, CoordConv2d, CoordConvTranspose2d, positional_bias

__version__ = "0.1.0"

__all__ = [
    "EXTRACTORS",
    "AddCoords",
    "CoordConv2d",
    "CoordConvCombinedExtractor",
    "CoordConvImpalaCNN",
    "CoordConvImpalaPool",
    "CoordConvNatureCNN",
    "CoordConvNaturePool",
    "CoordConvTranspose2d",
    "Extractor",
    "UserError",
    "add_coordinates",
    "make_atari_vec_env",
    "policy_kwargs",
    "positional_bias",
]

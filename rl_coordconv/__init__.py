"""
CoordConv for reinforcement learning with Stable-Baselines3.

Names are loaded when they are first asked for, so that plugging an extractor into own SB3 code costs no more
than SB3, and scripts can say how threads wait before PyTorch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rl_coordconv.errors import UserError, needs  # they load nothing else

if TYPE_CHECKING:
    from rl_coordconv.algorithms.a2c import A2C
    from rl_coordconv.algorithms.ppo import PPO
    from rl_coordconv.coordinates import add_coordinates
    from rl_coordconv.envs import make_atari_vec_env
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
    from rl_coordconv.policies import CoordActorPolicy
    from rl_coordconv.runs.agent import load_agent

__version__ = "0.2.0"

_MODULES = {
    "algorithms.a2c": ["A2C"],
    "algorithms.ppo": ["PPO"],
    "coordinates": ["add_coordinates"],
    "envs": ["make_atari_vec_env"],
    "extractors": [
        "EXTRACTORS",
        "CoordConvCombinedExtractor",
        "CoordConvImpalaCNN",
        "CoordConvImpalaPool",
        "CoordConvNatureCNN",
        "CoordConvNaturePool",
        "Extractor",
        "policy_kwargs",
    ],
    "layers": ["AddCoords", "CoordConv2d", "CoordConvTranspose2d", "positional_bias"],
    "policies": ["CoordActorPolicy"],
    "runs.agent": ["load_agent"],
}
_LATER = {name: f"rl_coordconv.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [
    "A2C",
    "EXTRACTORS",
    "PPO",
    "AddCoords",
    "CoordActorPolicy",
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
    "load_agent",
    "make_atari_vec_env",
    "policy_kwargs",
    "positional_bias",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    with needs():
        return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})

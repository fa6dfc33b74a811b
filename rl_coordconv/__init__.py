"""CoordConv for reinforcement learning with Stable-Baselines3."""

__version__ = "0.1.0"

"""SB3 algorithms as this project uses them."""

from agents.build import build

__all__ = ["build"]

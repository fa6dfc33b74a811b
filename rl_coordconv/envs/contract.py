"""Numbers that every backend keeps: DeepMind's Atari preprocessing (Mnih et al., Nature 2015)."""

N_STACK = 4
"""Frames that the agent sees at once."""

SCREEN_SIZE = 84
"""Height and width in pixels of the grayscale frames."""

FRAME_SKIP = 4
"""Emulator frames per step; the last two are max-pooled."""

MAX_FRAMES = 108_000
"""Emulator frames after which a game is cut off: 30 minutes of play."""

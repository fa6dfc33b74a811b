"""
How exactly the extractors of RL agents tell where something is: a square in an image of Atari's size.

The regression task of Liu et al. 2018 (section 2), asked of an extractor with a linear layer behind it, by
labels (:mod:`.supervised`), and of a whole PPO agent, by reward (:mod:`.pointing`).
"""

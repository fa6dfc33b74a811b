"""A GAN that draws two coloured objects (Liu et al. 2018)."""

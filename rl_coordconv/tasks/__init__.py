"""Tasks beside Atari: toy coordinate tasks, a GAN, digit detection."""

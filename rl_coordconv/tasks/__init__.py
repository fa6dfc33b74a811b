"""The supervised tasks on which Liu et al. (2018, arXiv:1807.03247) show what coordinates are good for."""

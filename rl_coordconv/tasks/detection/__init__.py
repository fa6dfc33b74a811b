"""Scattered digits, found by Faster R-CNN (Liu et al. 2018)."""

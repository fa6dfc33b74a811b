"""
Let OpenMP's threads sleep between two operations, instead of spinning on cores that the emulators need.

OpenMP reads the variable when PyTorch is loaded, so this is imported before anything else. Where PyTorch is
there already, or the variable is set, nothing changes.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

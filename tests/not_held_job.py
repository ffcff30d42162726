"""Lets trainings hold no features on the SPU, as those of large files do not. Given by `--jobs`."""

from sfworker.secure import gradient_descent

gradient_descent.MOST_HELD = 0
gradient_descent.MOST_CELLS = 5_000

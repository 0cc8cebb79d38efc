"""Training one trial: the only place with a training loop. Knows torch, never ray.

``Training`` is imported from ``tune_ablation.training.loop``; importing this package alone loads no torch, since the experiment
file's reader asks ``schedules`` for its names.
"""

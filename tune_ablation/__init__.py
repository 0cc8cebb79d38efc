"""Ablation studies that can be trusted, at any scale: the experiment, the plan, the training and the runner."""

__version__ = "0.1.0"

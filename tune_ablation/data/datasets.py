"""The registry of data sets: a name and the function that opens it. A new data set is one entry here."""

from collections.abc import Callable
from pathlib import Path

from tune_ablation.data.source import DataSpec, Source
from tune_ablation.data.synthetic import CLASSES, open_synthetic
from tune_ablation.data.tiny_imagenet import open_tiny_imagenet

DATASETS: dict[str, Callable[[DataSpec, Path | None, Path], Source]] = {
    "synthetic": open_synthetic,
    "tiny-imagenet": open_tiny_imagenet,
}
"""Name -> open(spec, path, cache_dir); opening reads no image's pixels and raises UserError on anything unusable."""

DEFAULT_CLASSES: dict[str, int] = {"synthetic": CLASSES, "tiny-imagenet": 200}
"""Classes of a data set where the experiment does not say, known without opening it."""

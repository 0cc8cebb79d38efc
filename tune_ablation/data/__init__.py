"""Data, decoded once per machine: `prepare` turns an experiment's data section into memory-mapped images and splits."""

from pathlib import Path

from tune_ablation.data.cache import cached_images
from tune_ablation.data.datasets import DATASETS
from tune_ablation.data.source import DataSpec, Progress
from tune_ablation.data.splits import SPLITS, PreparedData, draw_slice, mean_and_std
from tune_ablation.errors import UserError

__all__ = ["DATASETS", "SPLITS", "DataSpec", "PreparedData", "Progress", "prepare"]


def prepare(spec: DataSpec, path: Path | None, *, cache_dir: Path, progress: Progress | None = None) -> PreparedData:
    """Finds the data set, decodes it unless this machine already has, and draws the splits that `spec` asks for.

    Safe to call from any number of processes at once: one decodes, the others wait for it.

    Args:
        spec: What is asked for.
        path: Tiny-ImageNet's folder or zip file; None for the synthetic set.
        cache_dir: Folder of the decoded images, made if need be; best on a local disk.
        progress: Called as progress(images done, images in all) while decoding, and never where nothing is decoded.

    Raises:
        UserError: The data is missing, damaged or too small for `spec`, or the cache cannot be written.
    """
    if spec.dataset not in DATASETS:
        raise UserError(f"dataset = {spec.dataset!r} is not known; allowed: {', '.join(DATASETS)}")
    if spec.seed < 0:
        raise UserError(f"the data's seed = {spec.seed} is negative; allowed: 0 and above")
    source = DATASETS[spec.dataset](spec, path, cache_dir)
    chosen = draw_slice(spec, source)  # before any decoding: what cannot be had is said at once
    images, sums = cached_images(source, cache_dir, progress)
    mean, std = mean_and_std(sums[chosen.splits["train"]], pixels_per_image=source.image_size**2)
    return PreparedData(
        images=images,
        labels=chosen.labels,
        splits=chosen.splits,
        class_names=chosen.class_names,
        fingerprint=chosen.fingerprint,
        mean=mean,
        std=std,
    )

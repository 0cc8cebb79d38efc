"""Small data sets in Tiny-ImageNet's layout, made of real JPEG files, as a folder and as a zip file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES, TRAIN, VAL = ("n03", "n01", "n04", "n02"), 12, 5


@dataclass(frozen=True)
class Spec:
    dataset: str = "tiny-imagenet"
    classes: int | None = None
    train_per_class: int | None = None
    val_per_class: int = 3
    test_per_class: int | None = None
    image_size: int = 64
    seed: int = 0


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Spec]:
    def make(**changes: object) -> Spec:
        return replace(Spec(), **changes)  # type: ignore[arg-type]  # the tests' keywords are Spec's own

    return make


def jpeg(rng: np.random.Generator, *, side: int = 64, grey: bool = False) -> bytes:
    pixels = rng.integers(0, 256, (side // 8, side // 8) if grey else (side // 8, side // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


@pytest.fixture(scope="session")
def tiny_files() -> dict[str, bytes]:
    """Path in the layout -> content: 4 classes of 12 training and 5 val images, one training image of each class greyscale."""
    rng = np.random.default_rng(0)
    files = {"wnids.txt": "".join(f"{wnid}\n" for wnid in CLASSES).encode()}
    files["words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\treel\nn03\tvolleyball\nn99\tnot in this set\n"
    annotations = []
    for wnid in CLASSES:
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes are not read\n"
        for number in range(TRAIN):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(rng, grey=number == 0)
        for _ in range(VAL):
            name = f"val_{rng.integers(10**9)}.JPEG"
            files[f"val/images/{name}"] = jpeg(rng)
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    return files


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "tiny-imagenet-200"


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return path


@pytest.fixture(scope="session")
def make_folder() -> Callable[[Path, dict[str, bytes]], Path]:
    return write_folder


@pytest.fixture(scope="session")
def make_zip() -> Callable[[Path, dict[str, bytes]], Path]:
    return write_zip


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_files: dict[str, bytes]) -> Path:
    return write_folder(tmp_path / "folder", tiny_files)


@pytest.fixture
def tiny_zip(tmp_path: Path, tiny_files: dict[str, bytes]) -> Path:
    return write_zip(tmp_path / "tiny.zip", tiny_files)


@pytest.fixture(scope="session")
def big_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images (1,300) for decoder processes to be started; 13 different ones, repeated."""
    rng = np.random.default_rng(1)
    images = [jpeg(rng) for _ in range(13)]
    files = {"wnids.txt": b"n01\nn02\n", "val/val_annotations.txt": b"a.JPEG\tn01\nb.JPEG\tn02\n"}
    files |= {"val/images/a.JPEG": images[0], "val/images/b.JPEG": images[1]}
    files |= {f"train/{wnid}/images/{n:03}.JPEG": images[n % 13] for wnid in ("n01", "n02") for n in range(649)}
    return write_zip(tmp_path_factory.mktemp("big") / "big.zip", files)

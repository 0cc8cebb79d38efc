"""Tiny-ImageNet is read right from folder and zip file alike, and whatever is wrong with it is named in one line."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tune_ablation.data import prepare
from tune_ablation.data.tiny_imagenet import open_tiny_imagenet
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tune_ablation.data import DataSpec

    Files = dict[str, bytes]
    MakeSpec = Callable[..., DataSpec]
    Make = Callable[[Path, Files], Path]


def pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_every_image_has_pillows_pixels_and_its_class(tiny_zip: Path, tiny_files: Files, make_spec: MakeSpec, tmp_path: Path) -> None:
    data = prepare(make_spec(), tiny_zip, cache_dir=tmp_path / "cache")
    wnids = sorted(tiny_files["wnids.txt"].decode().split())
    annotated = dict(line.split("\t")[:2] for line in tiny_files["val/val_annotations.txt"].decode().splitlines())
    train = [name for wnid in wnids for name in sorted(n for n in tiny_files if n.startswith(f"train/{wnid}/images"))]
    test = sorted(name for name in tiny_files if name.startswith("val/images"))
    assert data.images.shape == (68, 64, 64, 3)
    for index, name in enumerate(train + test):
        np.testing.assert_array_equal(data.images[index], pillow(tiny_files[name]))
        wnid = name.split("/")[1] if name.startswith("train") else annotated[name.split("/")[-1]]
        assert data.labels[index] == wnids.index(wnid)
    assert data.splits["test"].tolist() == list(range(48, 68))
    assert data.class_names == ("goldfish, Carassius auratus", "reel", "volleyball", "n04")


def test_the_images_are_mapped_read_only(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    images = prepare(make_spec(), tiny_zip, cache_dir=tmp_path / "cache").images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_folder_its_parent_and_zip_are_the_same_data(tiny_folder: Path, tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    prepared = [
        prepare(make_spec(), path, cache_dir=tmp_path / f"cache{number}")
        for number, path in enumerate((tiny_folder, tiny_folder.parent, tiny_zip))
    ]
    assert len({data.fingerprint for data in prepared}) == 1
    for data in prepared[1:]:
        np.testing.assert_array_equal(data.images, prepared[0].images)
        np.testing.assert_array_equal(data.labels, prepared[0].labels)


def test_a_zip_of_the_layouts_inside_without_its_folder_is_the_same_data(
    tiny_zip: Path, tiny_files: Files, make_spec: MakeSpec, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for name, content in tiny_files.items():
            archive.writestr(name, content)
    opened = [open_tiny_imagenet(make_spec(), path, tmp_path) for path in (tiny_zip, tmp_path / "flat.zip")]
    assert opened[0].fingerprint == opened[1].fingerprint


def test_unread_files_do_not_touch_the_fingerprint_and_any_read_one_does(
    tiny_files: Files, make_zip: Make, make_spec: MakeSpec, tmp_path: Path
) -> None:
    def fingerprint(**changes: bytes) -> str:
        path = make_zip(tmp_path / "changed.zip", tiny_files | {name.replace("__", "/"): new for name, new in changes.items()})
        return open_tiny_imagenet(make_spec(), path, tmp_path).fingerprint

    unchanged = fingerprint()
    assert fingerprint(train__n01__n01_boxes__txt=b"other", test__images__x=b"") == unchanged
    image = next(name for name in tiny_files if name.startswith("train/n01/images"))
    assert fingerprint(**{image: tiny_files[image] + b"\0"}) != unchanged
    assert fingerprint(**{"words.txt": b"n01\tother\n"}) != unchanged


def test_a_folders_fingerprint_is_remembered_until_a_file_changes(tiny_folder: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = tiny_folder / "train/n01/images/n01_1.JPEG"
    first = open_tiny_imagenet(make_spec(), tiny_folder, cache).fingerprint
    status, content = image.stat(), image.read_bytes()
    image.write_bytes(content[:-1] + b"\0")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_tiny_imagenet(make_spec(), tiny_folder, cache).fingerprint == first, "same sizes and times: remembered"
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert open_tiny_imagenet(make_spec(), tiny_folder, cache).fingerprint != first


def test_words_may_be_missing(tiny_files: Files, make_zip: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "no-words.zip", {name: new for name, new in tiny_files.items() if name != "words.txt"})
    assert prepare(make_spec(), path, cache_dir=tmp_path / "cache").class_names == ("n01", "n02", "n03", "n04")


def changed(files: Files, **changes: bytes | None) -> Files:
    """The layout with some files replaced, or removed by None; "*" in a name stands for all that start with it."""
    result = dict(files)
    for name, content in changes.items():
        for match in [n for n in files if n.startswith(name[:-1])] if name.endswith("*") else [name]:
            if content is None:
                del result[match]
            else:
                result[match] = content
    return result


IMAGE = "train/n02/images/n02_7.JPEG"
ANNOTATIONS = "val/val_annotations.txt"
DAMAGES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no class list": ({"wnids.txt": None}, "wnids.txt"),
    "empty class list": ({"wnids.txt": b"\n"}, "wnids.txt names no class"),
    "class list is not text": ({"wnids.txt": b"\xff\xfe\x80"}, "wnids.txt is not text"),
    "class without images": ({"train/n02/images/*": None}, "train/n02/images holds no .JPEG file"),
    "annotations missing": ({ANNOTATIONS: None}, f"{ANNOTATIONS} cannot be read: No such file"),
    "annotation of a missing image": ({ANNOTATIONS: b"val_x.JPEG\tn01\n"}, "val_x.JPEG is named in .* but missing from val/images"),
    "annotation of an unknown class": ({ANNOTATIONS: b"val_x.JPEG\tn77\n"}, "line 1 names class 'n77', which is not in wnids.txt"),
    "annotation without a class": ({ANNOTATIONS: b"val_x.JPEG\n"}, "line 1 names class ''"),
    "annotation twice": ({ANNOTATIONS: b"a.JPEG\tn01\na.JPEG\tn02\n"}, "line 2 names 'a.JPEG' twice"),
    "image without annotation": ({"val/images/odd.JPEG": b""}, "odd.JPEG is in val/images but not named"),
    "image that is none": ({IMAGE: b"no image"}, f"{IMAGE} cannot be decoded as a JPEG"),
    "empty image": ({IMAGE: b""}, f"{IMAGE} cannot be decoded as a JPEG"),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_one_line_and_leaves_no_cache(
    damage: str, kind: str, tiny_files: Files, make_folder: Make, make_zip: Make, make_spec: MakeSpec, tmp_path: Path
) -> None:
    changes, message = DAMAGES[damage]
    files = changed(tiny_files, **changes)
    path = make_zip(tmp_path / "bad.zip", files) if kind == "zip" else make_folder(tmp_path / "bad", files)
    with pytest.raises(UserError, match=message) as caught:
        prepare(make_spec(), path, cache_dir=tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [entry for entry in (tmp_path / "cache").glob("tiny-imagenet-*") if entry.suffix != ".lock"]


def test_a_truncated_image_is_named(tiny_files: Files, make_zip: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "bad.zip", changed(tiny_files, **{IMAGE: tiny_files[IMAGE][:-200]}))
    with pytest.raises(UserError, match=f"{IMAGE} cannot be decoded as a JPEG .*truncated"):
        prepare(make_spec(), path, cache_dir=tmp_path / "cache")


def test_an_image_of_another_size_is_named(
    tiny_files: Files, make_zip: Make, make_spec: MakeSpec, make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    files = changed(tiny_files, **{IMAGE: make_jpeg(np.random.default_rng(0), side=32)})
    with pytest.raises(UserError, match=f"{IMAGE} is 32x32 pixels, not 64x64"):
        prepare(make_spec(), make_zip(tmp_path / "bad.zip", files), cache_dir=tmp_path / "cache")


def test_a_flipped_bit_in_a_zip_is_named(tiny_files: Files, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in tiny_files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    whole = bytearray(path.read_bytes())
    whole[whole.index(tiny_files[IMAGE]) + 300] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=f"{IMAGE} cannot be read: Bad CRC-32"):
        prepare(make_spec(), path, cache_dir=tmp_path / "cache")


def test_no_path_says_how_to_get_the_data(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs the path .*`tune-ablation data download`"):
        prepare(make_spec(), None, cache_dir=tmp_path)


def test_unusable_paths_are_refused(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    empty_folder, empty_file, other_folder = tmp_path / "empty", tmp_path / "empty.zip", tmp_path / "other"
    empty_folder.mkdir()
    empty_file.touch()
    other_folder.mkdir()
    (other_folder / "file").touch()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(tiny_zip.read_bytes()[:-1000])
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("readme", "no data here")
    for path, message in {
        tmp_path / "missing": "does not exist",
        empty_folder: "is an empty folder",
        other_folder: "holds neither wnids.txt nor tiny-imagenet-200/wnids.txt",
        empty_file: "is empty",
        cut: "is not a whole zip file",
        foreign: "holds no Tiny-ImageNet",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            prepare(make_spec(), path, cache_dir=tmp_path / "cache")
        assert str(path) in str(caught.value)
        assert "`tune-ablation data download`" in str(caught.value)


def test_the_real_part_decodes_to_pillows_pixels(
    tiny_imagenet_part: Path, make_spec: MakeSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("real")
    calls: list[tuple[int, int]] = []
    try:
        data = prepare(
            make_spec(val_per_class=50), tiny_imagenet_part, cache_dir=cache, progress=lambda done, total: calls.append((done, total))
        )
        assert calls[0] == (0, 27_500)
        assert calls[-1] == (27_500, 27_500)
        assert {split: len(indices) for split, indices in data.splits.items()} == {
            "train": 22_500,
            "val": 2_500,
            "test": 2_500,
            "train_eval": 2_500,
        }
        with zipfile.ZipFile(tiny_imagenet_part) as archive:
            top = "tiny-imagenet-200/"
            wnids = sorted(archive.read(f"{top}wnids.txt").decode().split())
            annotated = dict(line.split("\t")[:2] for line in archive.read(f"{top}{ANNOTATIONS}").decode().splitlines())
            names = [name for name in archive.namelist() if name.endswith(".JPEG")]
            train = [name for wnid in wnids for name in sorted(n for n in names if f"/train/{wnid}/" in n)]
            test = sorted(name for name in names if "/val/" in name)
            grey = 0
            for index, name in list(enumerate(train + test))[::37]:
                content = archive.read(name)
                grey += Image.open(io.BytesIO(content)).mode == "L"
                np.testing.assert_array_equal(data.images[index], pillow(content))
                assert wnids[data.labels[index]] == (name.split("/")[2] if index < len(train) else annotated[name.split("/")[-1]])
        assert grey > 0, "greyscale images were among those compared"
        pixels = data.images[data.splits["train"]].reshape(-1, 3)
        for channel in range(3):
            np.testing.assert_allclose(data.mean[channel], pixels[:, channel].mean() / 255, rtol=1e-5)
            np.testing.assert_allclose(data.std[channel], pixels[:, channel].std(dtype=np.float64) / 255, rtol=1e-5)
    finally:
        shutil.rmtree(cache)

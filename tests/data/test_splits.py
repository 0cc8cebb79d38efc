"""The splits depend on the seed and on nothing else: what is held out stays held out, whatever else is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data.source import Part, Source
from tune_ablation.data.splits import SPLITS, draw_slice, mean_and_std
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tune_ablation.data import DataSpec

    MakeSpec = Callable[..., DataSpec]


def make_source(train: tuple[int, ...] = (50,) * 6, test: tuple[int, ...] = (10,) * 6, val: tuple[int, ...] = (0,) * 6) -> Source:
    """A source of known counts per class, without pixels."""

    def blocks() -> Iterator[np.ndarray]:
        raise AssertionError("drawing splits reads no pixel")

    counts = list(zip(train, val, test, strict=True))
    return Source(
        name="counted",
        where="the counted set",
        fingerprint="f" * 64,
        class_names=tuple(f"class {number}" for number in range(len(counts))),
        labels=np.repeat(np.arange(len(counts)), [sum(count) for count in counts]),
        parts=np.concatenate([np.repeat(np.array(list(Part), dtype=np.int8), count) for count in counts]),
        image_size=64,
        blocks=blocks,
    )


def test_splits_are_disjoint_complete_and_of_the_right_part(make_spec: MakeSpec) -> None:
    source = make_source()
    drawn = draw_slice(make_spec(val_per_class=7), source)
    assert tuple(drawn.splits) == SPLITS
    train, val, test = (set(drawn.splits[split].tolist()) for split in ("train", "val", "test"))
    assert not train & val
    assert train | val == set(np.flatnonzero(source.parts == Part.TRAIN).tolist())
    assert test == set(np.flatnonzero(source.parts == Part.TEST).tolist())
    assert np.bincount(drawn.labels[drawn.splits["val"]]).tolist() == [7] * 6
    for indices in drawn.splits.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all(), "ascending, none twice"


def test_val_and_test_stay_whatever_is_trained_on(make_spec: MakeSpec) -> None:
    source = make_source()
    drawn = [draw_slice(make_spec(train_per_class=n, val_per_class=5), source).splits for n in (1, 20, 45, None)]
    for splits in drawn[1:]:
        np.testing.assert_array_equal(splits["val"], drawn[0]["val"])
        np.testing.assert_array_equal(splits["test"], drawn[0]["test"])
    assert set(drawn[0]["train"]) < set(drawn[1]["train"]) < set(drawn[2]["train"]), "a smaller train split is a part of a larger"


def test_a_class_holds_out_the_same_images_in_every_slice(make_spec: MakeSpec) -> None:
    source = make_source()
    whole = draw_slice(make_spec(), source)
    part = draw_slice(make_spec(classes=3), source)
    for split in ("train", "val", "test"):
        kept = whole.splits[split][part.labels[whole.splits[split]] >= 0]
        np.testing.assert_array_equal(part.splits[split], kept)


def test_classes_are_drawn_from_the_seed_kept_in_order_and_relabelled(make_spec: MakeSpec) -> None:
    source = make_source((30,) * 40, (3,) * 40, (0,) * 40)
    drawn = [draw_slice(make_spec(classes=8, seed=seed), source) for seed in (0, 0, 1)]
    assert drawn[0].class_names == drawn[1].class_names
    assert drawn[0].class_names != drawn[2].class_names
    positions = [source.class_names.index(name) for name in drawn[0].class_names]
    assert positions == sorted(positions)
    assert positions != list(range(8)), "drawn, not the first eight"
    for label, position in enumerate(positions):
        assert (drawn[0].labels[source.labels == position] == label).all()
    outside = ~np.isin(source.labels, positions)
    assert (drawn[0].labels[outside] == -1).all()
    assert not outside[np.concatenate(list(drawn[0].splits.values()))].any()


@pytest.mark.parametrize(
    ("train_per_class", "test_per_class", "expected"),
    [(20, 10, [10] * 6), (4, 10, [4] * 6), (None, None, [10] * 6)],
)
def test_train_eval_is_a_balanced_sample_of_train_as_large_as_test(
    train_per_class: int | None, test_per_class: int | None, expected: list[int], make_spec: MakeSpec
) -> None:
    drawn = draw_slice(make_spec(train_per_class=train_per_class, test_per_class=test_per_class), make_source())
    sample = drawn.splits["train_eval"]
    assert set(sample) <= set(drawn.splits["train"])
    assert np.bincount(drawn.labels[sample]).tolist() == expected


def test_train_eval_is_as_balanced_as_unequal_classes_allow(make_spec: MakeSpec) -> None:
    drawn = draw_slice(make_spec(val_per_class=0), make_source((2, 50, 50), (10, 10, 11), (0, 0, 0)))
    counts = np.bincount(drawn.labels[drawn.splits["train_eval"]])
    assert counts.sum() == 31
    assert counts[0] == 2
    assert abs(counts[1] - counts[2]) <= 1


def test_a_val_part_of_its_own_is_used_and_train_left_whole(make_spec: MakeSpec) -> None:
    source = make_source(val=(8,) * 6)
    drawn = draw_slice(make_spec(val_per_class=8), source)
    assert (source.parts[drawn.splits["val"]] == Part.VAL).all()
    assert len(drawn.splits["train"]) == 300


def test_the_fingerprint_tells_what_is_trained_and_tested_on_apart(make_spec: MakeSpec) -> None:
    source = make_source()
    changes = [{}, {"seed": 1}, {"classes": 3}, {"train_per_class": 20}, {"val_per_class": 4}, {"test_per_class": 9}]
    fingerprints = {draw_slice(make_spec(**change), source).fingerprint for change in changes}
    assert len(fingerprints) == len(changes)
    assert draw_slice(make_spec(classes=6), source).fingerprint == draw_slice(make_spec(), source).fingerprint, "all six either way"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 7}, "classes = 7 asked of the counted set; allowed: 2 to 6"),
        ({"classes": 1}, "classes = 1 .* 2 to 6"),
        ({"train_per_class": 48}, "train_per_class = 48 .* 1 to 47 .*'class 0'"),
        ({"train_per_class": 0}, "train_per_class = 0 .* 1 to 47"),
        ({"val_per_class": 50}, "val_per_class = 50 .* 0 to 49"),
        ({"val_per_class": -1}, "val_per_class = -1 .* 0 to 49"),
        ({"test_per_class": 11}, "test_per_class = 11 .* 1 to 10"),
    ],
)
def test_what_cannot_be_had_is_refused_with_both_numbers(change: dict[str, int], message: str, make_spec: MakeSpec) -> None:
    with pytest.raises(UserError, match=message):
        draw_slice(make_spec(**change), make_source())


def test_a_constant_channel_can_still_be_divided_by_its_deviation() -> None:
    sums = np.tile(np.array([[100 * 9], [100 * 81]], dtype=np.int64), (5, 1, 3))
    mean, std = mean_and_std(sums, pixels_per_image=100)
    np.testing.assert_allclose(mean, 9 / 255, rtol=1e-6)
    np.testing.assert_allclose(std, 1 / 255, rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32

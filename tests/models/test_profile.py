"""The static figures: the report's, torchstat's own, and sums done by hand."""

from dataclasses import asdict, fields

import pytest
import torch
from torch import Tensor, nn

from tune_ablation.models import build_model
from tune_ablation.models.profile import Profile, profile, to_json


def profile_of(cell: str) -> Profile:
    with torch.device("meta"):
        model = build_model(cell, 200)
    return profile(model, 64)


@pytest.mark.parametrize(
    ("cell", "params", "printed"),
    [
        ("resnet18_origin", 11_279_112, ("297.16", "148.75", "2.10", "47.31")),
        ("resnet18_maxpool", 11_279_112, ("297.16", "148.75", "2.10", "47.31")),
        ("resnet18_dropout", 12_590_856, ("299.78", "150.06", "2.11", "52.34")),
    ],
)
def test_resnet18_has_the_figures_printed_in_the_report(cell: str, params: int, printed: tuple[str, ...]) -> None:
    found = profile_of(cell)
    millions = (found.madd / 1e6, found.flops / 1e6)
    mebibytes = (found.memory_bytes / 1024**2, found.memory_rw_bytes / 1024**2)
    assert found.params == params
    assert tuple(f"{value:.2f}" for value in (*millions, *mebibytes)) == printed


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("resnet18_origin", Profile(11_279_112, 297_162_552, 148_746_240, 2_198_304, 49_608_512, 296_296_448)),
        ("resnet50_origin", Profile(23_917_832, 671_475_512, 336_449_536, 9_397_024, 114_505_536, 668_106_752)),
        ("resnet50_maxpool", Profile(23_917_832, 671_475_512, 336_449_536, 9_397_024, 114_505_536, 668_106_752)),
        ("resnet50_dropout", Profile(44_893_448, 713_418_552, 357_425_152, 9_462_560, 198_498_112, 710_049_792)),
    ],
)
def test_figures_are_those_of_torchstat_itself(cell: str, expected: Profile) -> None:
    # torchstat 0.0.7's hooks were run on these networks; the last figure is FlopCounterMode's.
    assert profile_of(cell) == expected


class Tiny(nn.Module):
    """Every layer with a rule once, and one ReLU called twice on different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1, bias=True)  # 8x8 to 4x4
        self.grouped = nn.Conv2d(4, 6, kernel_size=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.max = nn.MaxPool2d(2)  # 4x4 to 2x2
        self.average = nn.AvgPool2d((2, 1))  # 2x2 to 1x2
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.grouped(self.conv(images))))
        x = self.average(self.max(x))
        logits: Tensor = self.relu(self.linear(self.drop(torch.flatten(x, 1))))
        return logits


def test_a_small_network_adds_up_by_hand() -> None:
    conv_weights, grouped_weights, linear_weights = 4 * 3 * 9 + 4, 6 * 2, 5 * 12 + 5
    found = profile(Tiny(), 8)
    assert found == Profile(
        params=conv_weights + grouped_weights + 12 + linear_weights,
        madd=(2 * 27 - 1 + 1) * 64 + (2 * 2 - 1) * 96 + 4 * 96 + 3 * 24 + 2 * 12 + 5 * (2 * 12 - 1) + 5,
        flops=(27 + 1) * 64 + 2 * 96 + 2 * 96 + 96 + 24 + 5 * 12 + 5,
        memory_bytes=4 * (64 + 96 + 96 + 24 + 12 + 12 + 5 + 5),
        memory_rw_bytes=4
        * (
            (192 + conv_weights + 64)
            + (64 + grouped_weights + 96)
            + (96 + 2 * 6 + 96)
            + (96 + 24)
            + (24 + 12)
            + (12 + linear_weights + 5)
            + (5 + 5)
        ),
        flop_counter=2 * (27 * 64 + 2 * 96 + 12 * 5),
    )


def test_profiling_leaves_the_network_and_the_random_stream_as_they_were() -> None:
    model = build_model("resnet18_dropout", 10, width=4)
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    first = profile(model, 64)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert not any(module._forward_hooks for module in model.modules())
    assert profile(model, 64) == first


def test_a_failing_forward_pass_leaves_no_hooks() -> None:
    model = build_model("resnet18_dropout", 10, width=4)
    with pytest.raises(RuntimeError):
        profile(model, 128)  # the flattening head was made for 64
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_the_device_does_not_matter() -> None:
    with torch.device("meta"):
        shapes = build_model("resnet50_dropout", 10, width=4)
    assert profile(shapes, 64) == profile(build_model("resnet50_dropout", 10, width=4), 64)


def test_a_row_holds_the_cell_and_whole_numbers() -> None:
    found = profile_of("resnet18_maxpool")
    row = to_json("resnet18_maxpool", found)
    assert row == {"cell": "resnet18_maxpool", **asdict(found)}
    assert [name for name in row if name != "cell"] == [field.name for field in fields(Profile)]
    assert all(type(value) is int for name, value in row.items() if name != "cell")

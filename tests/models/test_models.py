"""The networks: every entry of the registries builds, the plain one is torchvision's, and wrong names are refused."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tune_ablation.errors import UserError
from tune_ablation.models import DEPTHS, HEADS, STEMS, build_model, parse_cell_key
from tune_ablation.models.resnet import feature_map_size


@dataclass(frozen=True)
class PlainCell:
    depth: int
    head: str


@dataclass(frozen=True)
class FullCell:
    depth: int
    head: str
    width: int
    stem: str


def seeded(cell: str, num_classes: int = 10, *, width: int | None = None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(build_model(cell, num_classes, width=width).state_dict())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_network_gives_one_row_of_logits_per_image(depth: int, head: str) -> None:
    with torch.device("meta"):
        model = build_model(f"resnet{depth}_{head}", 7, image_size=48, width=8)
        assert model(torch.empty(3, 3, 48, 48)).shape == (3, 7)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("head", HEADS)
def test_every_stem_takes_every_head(head: str, stem: str) -> None:
    with torch.device("meta"):
        model = build_model(f"resnet50_{head}", 7, image_size=48, width=8, stem=stem)
        assert model(torch.empty(3, 3, 48, 48)).shape == (3, 7)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("depth", [18, 50])
def test_every_head_sends_a_finite_gradient_to_every_parameter(depth: int, head: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"resnet{depth}_{head}", 5, width=4)
    model(torch.randn(8, 3, 64, 64)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_plain_network_is_torchvisions_bit_for_bit(depth: int) -> None:
    torch.manual_seed(3)
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=200)
    stream = torch.get_rng_state()
    torch.manual_seed(3)
    model = build_model(f"resnet{depth}", 200)
    assert torch.equal(torch.get_rng_state(), stream)

    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), reference(images))  # batch statistics
    assert torch.equal(model.eval()(images), reference.eval()(images))  # running statistics


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_has_torchvisions_parameters(depth: int) -> None:
    with torch.device("meta"):
        ours = build_model(f"resnet{depth}", 200)
        theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=200)
    our_shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert our_shapes == {name: value.shape for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_a_seed_gives_every_head_the_same_backbone_and_last_layer(depth: int) -> None:
    origin = seeded(f"resnet{depth}", width=8)
    last_weight, last_bias = origin.pop("fc.weight"), origin.pop("fc.bias")
    for head in HEADS:
        other = seeded(f"resnet{depth}_{head}", width=8)
        assert all(torch.equal(other[name], value) for name, value in origin.items())
        *_, weight, bias = other.values()
        assert torch.equal(weight, last_weight)
        assert torch.equal(bias, last_bias)


def test_a_seed_decides_all_weights() -> None:
    first, again = seeded("resnet18_dropout", width=4), seeded("resnet18_dropout", width=4)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("image_size", [1, 31, 32, 33, 75, 97])
def test_the_flattening_head_fits_odd_image_sizes(image_size: int, stem: str) -> None:
    model = build_model("resnet18_dropout", 5, image_size=image_size, width=2, stem=stem).eval()
    image = torch.zeros(1, 3, image_size, image_size)
    height, width = feature_map_size(DEPTHS[18], STEMS[stem], image_size)
    assert model.features(image).shape == (1, 16, height, width)
    assert model(image).shape == (1, 5)


def test_the_feature_map_has_torchvisions_size() -> None:
    reference = torchvision.models.resnet50().eval()
    trunk = nn.Sequential(*list(reference.children())[:-2])
    with torch.no_grad():
        expected = trunk(torch.zeros(1, 3, 101, 101)).shape[2:]
    assert feature_map_size(DEPTHS[50], STEMS["plain"], 101) == tuple(expected) == (4, 4)


def test_width_scales_every_stage() -> None:
    with torch.device("meta"):
        model = build_model("resnet50", 10, width=24)
        narrow = build_model("resnet18", 10, width=24)
    assert [model.conv1.out_channels, model.bn1.num_features] == [24, 24]
    planes = [model.get_parameter(f"layer{stage}.2.conv2.weight").shape[0] for stage in (1, 2, 3, 4)]
    assert planes == [24, 48, 96, 192]
    assert [model.channels, narrow.channels] == [4 * 192, 192]


def test_the_small_stem_keeps_the_image_size() -> None:
    with torch.device("meta"):
        model = build_model("resnet18", 10, stem="small")
        assert model.maxpool is None
        assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
        assert model.layer1(model.conv1(torch.empty(1, 3, 33, 33))).shape == (1, 64, 33, 33)


def test_a_cell_object_may_carry_width_and_stem_and_arguments_override_it() -> None:
    cell = FullCell(18, "maxpool", width=8, stem="small")
    with torch.device("meta"):
        assert build_model(PlainCell(18, "dropout"), 10).conv1.weight.shape == (64, 3, 7, 7)
        assert build_model(cell, 10).conv1.weight.shape == (8, 3, 3, 3)
        assert build_model(cell, 10, width=4).conv1.weight.shape == (4, 3, 3, 3)
        assert build_model(cell, 10, stem="plain").conv1.weight.shape == (8, 3, 7, 7)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_key_names_its_depth_and_head(depth: int, head: str) -> None:
    assert parse_cell_key(f"resnet{depth}_{head}") == (depth, head)


def test_a_key_without_a_head_means_the_original() -> None:
    assert parse_cell_key("resnet34") == (34, "origin")


@pytest.mark.parametrize("text", ["", "resnet", "resnet20", "resnet18_", "resnet18_avg", "resnet018", "Resnet18"])
def test_an_unknown_key_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_cell_key(text)
    message = str(caught.value)
    assert repr(text) in message
    assert all(str(name) in message for name in (*DEPTHS, *HEADS))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (FullCell(20, "origin", 64, "plain"), "unknown depth 20: allowed are 18, 34, 50, 101, 152"),
        (FullCell(18, "avg", 64, "plain"), "unknown head 'avg': allowed are origin, maxpool, dropout"),
        (FullCell(18, "origin", 64, "big"), "unknown stem 'big': allowed are plain, small"),
        (FullCell(18, "origin", 0, "plain"), "width of resnet18_origin is 0: allowed are whole numbers from 1"),
    ],
)
def test_a_wrong_level_is_refused_with_what_is_allowed(cell: FullCell, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(cell, 10)
    assert str(caught.value) == message


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"^image_size of resnet50_dropout is -64: allowed are whole numbers from 1$"):
        build_model("resnet50_dropout", 10, image_size=-64)
    with pytest.raises(UserError, match=r"^num_classes of resnet18_origin is 0: "):
        build_model("resnet18", 0)


def test_the_tables_load_without_torch() -> None:
    code = "import sys; from tune_ablation.models import DEPTHS, HEADS, STEMS; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"

"""The heads, layer by layer as the report describes them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tune_ablation.models import build_model


def head_layers(cell: str, *, width: int = 64, image_size: int = 64) -> list[str]:
    with torch.device("meta"):
        model = build_model(cell, 200, width=width, image_size=image_size)
    parts = [part for part in (model.pool, model.fc) if part is not None]
    leaves = [module for part in parts for module in part.modules() if not list(module.children())]
    return [_spoken(module) for module in leaves]


def _spoken(module: nn.Module) -> str:
    match module:
        case nn.Linear():
            assert module.bias is not None
            return f"Linear({module.in_features}, {module.out_features})"
        case nn.Dropout():
            return f"Dropout({module.p})"
        case nn.AdaptiveAvgPool2d():
            return f"AdaptiveAvgPool2d({module.output_size})"
        case nn.AdaptiveMaxPool2d():
            return f"AdaptiveMaxPool2d({module.output_size})"
    return type(module).__name__


def alexnet(flat: int, hidden: int) -> list[str]:
    first, second = f"Linear({flat}, {hidden})", f"Linear({hidden}, {hidden})"
    return ["Dropout(0.5)", first, "ReLU", "Dropout(0.5)", second, "ReLU", f"Linear({hidden}, 200)"]


@pytest.mark.parametrize(
    ("cell", "layers"),
    [
        ("resnet18_origin", ["AdaptiveAvgPool2d(1)", "Linear(512, 200)"]),
        ("resnet18_maxpool", ["AdaptiveMaxPool2d(1)", "Linear(512, 200)"]),
        ("resnet18_dropout", alexnet(512 * 2 * 2, 512)),
        ("resnet50_origin", ["AdaptiveAvgPool2d(1)", "Linear(2048, 200)"]),
        ("resnet50_maxpool", ["AdaptiveMaxPool2d(1)", "Linear(2048, 200)"]),
        ("resnet50_dropout", alexnet(2048 * 2 * 2, 2048)),
    ],
)
def test_heads_are_the_reports(cell: str, layers: list[str]) -> None:
    assert head_layers(cell) == layers


def test_the_flattening_head_follows_width_and_image_size() -> None:
    assert head_layers("resnet18_dropout", width=16, image_size=96) == alexnet(128 * 3 * 3, 128)


@pytest.mark.parametrize(
    ("head", "reduce"),
    [
        ("origin", lambda feature_map: feature_map.mean((2, 3))),
        ("maxpool", lambda feature_map: feature_map.amax((2, 3))),
        ("dropout", lambda feature_map: feature_map.flatten(1)),
    ],
)
def test_heads_reduce_the_feature_map_as_they_say(head: str, reduce: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = build_model(f"resnet18_{head}", 10, width=4).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), model.fc(reduce(model.features(images))))


def test_global_max_pool_equals_torchs_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    pool = build_model("resnet18_maxpool", 10, width=2).pool
    assert pool is not None
    ours = torch.randn(3, 5, 4, 7, requires_grad=True)  # no ties
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(3, 5, 1, 1)
    got, expected = pool(ours), nn.AdaptiveMaxPool2d(1)(theirs)
    assert torch.equal(got, expected)
    (our_gradient,) = torch.autograd.grad((got * weights).sum(), ours)
    (their_gradient,) = torch.autograd.grad((expected * weights).sum(), theirs)
    assert torch.equal(our_gradient, their_gradient)


def test_max_pooling_trains_as_torchs_does_behind_a_relu() -> None:
    torch.manual_seed(1)
    model = build_model("resnet18_maxpool", 10, width=8)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
    gradients = []
    for pool in (model.pool, nn.AdaptiveMaxPool2d(1)):
        model.pool = pool
        loss = nn.functional.cross_entropy(model(images), labels)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert (model.features(images) == 0).all((2, 3)).any()  # whole maps are zero: ties are there
    torch.testing.assert_close(*gradients)

"""The static cost of a network for one image: torchstat's figures, counted by its rules, and torch's own FLOP count.

torchstat itself (github.com/Swall0w/torchstat) no longer runs beside current releases of its dependencies. Mind its
labels: MAdd counts multiplications and additions apart, Flops counts multiply-accumulates.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tune_ablation.models import Cell, build_model

if TYPE_CHECKING:
    from collections.abc import Iterator

ELEMENT_BYTES = 4
"""torchstat counts every element as a float32."""


@dataclass(frozen=True)
class Profile:
    """Static figures of one forward pass in eval mode at batch 1.

    `params` is how many there are. `memory_bytes` is the size of all layers' outputs, `memory_rw_bytes` of all that the
    layers read and write. `flop_counter` is the total of `torch.utils.flop_counter.FlopCounterMode`: convolutions and
    matrix products alone, two operations for each multiply-accumulate.
    """

    params: int
    madd: int
    flops: int
    memory_bytes: int
    memory_rw_bytes: int
    flop_counter: int


class _Cost(NamedTuple):
    """What a layer costs: operations by either count, and elements moved."""

    madd: int
    flops: int
    read: int
    written: int


def profile(model: nn.Module, image_size: int) -> Profile:
    """Measure a network on one RGB image of ``image_size`` pixels a side; the network is left as it was found.

    It runs where the network is; on the meta device nothing is computed. As in torchstat, a layer that is called twice
    counts once, by its last call (a block of torchvision's has one ReLU for all its uses), and a layer without a rule
    (adaptive pools, dropout) costs nothing but the size of its output.
    """
    weight = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    costs: dict[nn.Module, _Cost] = {}
    outputs: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        costs[module] = _cost(module, inputs[0], output)
        outputs[module] = output.numel()

    counter = FlopCounterMode(display=False)
    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with _evaluating(model), torch.no_grad(), counter:
            model(image)
    finally:
        for handle in handles:
            handle.remove()

    return Profile(
        params=sum(parameter.numel() for parameter in model.parameters()),
        madd=sum(cost.madd for cost in costs.values()),
        flops=sum(cost.flops for cost in costs.values()),
        memory_bytes=ELEMENT_BYTES * sum(outputs.values()),
        memory_rw_bytes=ELEMENT_BYTES * sum(cost.read + cost.written for cost in costs.values()),
        flop_counter=counter.get_total_flops(),
    )


def profile_cell(cell: Cell | str, num_classes: int, image_size: int) -> Profile:
    """The profile of a cell's network, counted on the meta device: no weights are drawn and nothing is computed."""
    with torch.device("meta"):
        return profile(build_model(cell, num_classes, image_size=image_size), image_size)


def to_json(cell_key: str, profile: Profile) -> dict[str, str | int]:
    """One row of a table of profiles: the cell's key under ``cell``, then the profile's figures, as whole numbers."""
    return {"cell": cell_key, **asdict(profile)}


def _cost(module: nn.Module, inp: Tensor, out: Tensor) -> _Cost:
    """The rules of torchstat's compute_madd.py, compute_flops.py and compute_memory.py, for a batch of one."""
    n_in, n_out = inp.numel(), out.numel()
    params = sum(parameter.numel() for parameter in module.parameters())
    cost = _Cost(0, 0, 0, 0)
    match module:
        case nn.Conv2d():
            taps = _area(module.kernel_size) * module.in_channels // module.groups
            bias = 0 if module.bias is None else 1
            cost = _Cost((2 * taps - 1 + bias) * n_out, (taps + bias) * n_out, n_in + params, n_out)
        case nn.BatchNorm2d():
            cost = _Cost(4 * n_in, (2 if module.affine else 1) * n_in, n_in + 2 * module.num_features, n_in)
        case nn.ReLU():
            cost = _Cost(n_in, n_in, n_in, n_in)
        case nn.MaxPool2d():
            cost = _Cost((_area(module.kernel_size) - 1) * n_out, n_in, n_in, n_out)
        case nn.AvgPool2d():
            cost = _Cost(_area(module.kernel_size) * n_out, n_in, n_in, n_out)
        case nn.Linear():  # neither count of operations has the bias, but it is read
            cost = _Cost((2 * module.in_features - 1) * n_out, module.in_features * n_out, n_in + params, n_out)
    return cost


def _area(kernel: int | tuple[int, ...]) -> int:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return height * width


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

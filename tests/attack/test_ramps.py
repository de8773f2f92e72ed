"""Gradients of the attack where a network has none: through signs, and where a softmax gives one class everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verinn.attack.ramps import ramped
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen
from verinn.ops.program import Program

torch.set_num_threads(1)


def binarised(seed: int = 0) -> Graph:
    """Signs between two linear maps, whose sums are hundreds, and a softmax of them."""
    rng = np.random.default_rng(seed)
    first, second = (np.sign(rng.standard_normal(shape)) for shape in ((20, 400), (400, 5)))
    nodes = [
        Node("h", "linear", ("x",), (1, 400), params=frozen({"weight": Const(first)})),
        Node("s", "sign", ("h",), (1, 400)),
        Node("z", "linear", ("s",), (1, 5), params=frozen({"weight": Const(second * 20)})),
        Node("y", "softmax", ("z",), (1, 5), attrs=frozen({"axis": 1})),
    ]
    return Graph((Input("x", (1, 20)),), tuple(nodes), (Output("y", "y"),))


@pytest.mark.parametrize("seed", range(3))
def test_saturated_softmax_of_signs_has_a_gradient_that_leads_on(seed: int) -> None:
    program = Program.prepare(binarised(seed), torch.float32)
    passing = ramped(program)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((4, 20), generator=generator)
    assert torch.equal(passing.flat(x), program.flat(x))  # values are the network's
    best = program.flat(x).argmax(1)
    moved = x
    for _ in range(30):
        moving = moved.clone().requires_grad_(True)
        y = passing.flat(moving)
        gap = y.gather(1, best.unsqueeze(1)).squeeze(1) - y.scatter(1, best.unsqueeze(1), -1.0).amax(1)
        (gradient,) = torch.autograd.grad(gap.sum(), moving)
        assert bool((gradient != 0).any(1).all())
        moved = torch.minimum(torch.maximum(moved - 0.1 * gradient.sign(), x - 1.5), x + 1.5)
        if bool((program.flat(moved).argmax(1) != best).all()):
            break
    assert bool((program.flat(moved).argmax(1) != best).any())

"""Gradients for networks with jumps: a step function passes them as if it were a ramp.

The straight-through estimator (Bengio et al., 2013; Hubara et al., "Binarized Neural Networks", NeurIPS
2016): values are those of the network, but the derivative of a sign or a step is that of a ramp around the
jump, and that of a rounding is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from verinn.ops.program import Program, Step
from verinn.ops.stairs import Stairs

#: ramps reach as many mean distances from the jump
_REACH = 2.0


@dataclass(frozen=True, eq=False)
class _Ramp(Step):
    """A step function with the derivative of a ramp."""

    def apply(self, xs: Sequence[Tensor]) -> Tensor:
        y, ramp = super().apply(xs), xs[0]
        if self.node.op in ("sign", "step"):
            reach = (ramp.detach().abs().mean() * _REACH).clamp(min=1e-6)
            ramp = (ramp / reach).clamp(-1, 1) * (1.0 if self.node.op == "sign" else 0.5)
        return y.detach() + (ramp - ramp.detach())


def ramped(program: Program) -> Program:
    """The same network for evaluation, with gradients that pass jumps."""
    if not any(isinstance(step.op, Stairs) for step in program.steps):
        return program
    return replace(
        program, steps=tuple(_Ramp(**vars(step)) if isinstance(step.op, Stairs) else step for step in program.steps)
    )

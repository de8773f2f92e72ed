"""Gradients where a network has none of use: a step function passes them as if it were a ramp, a softmax at the
outputs as if its logarithm were asked for.

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


@dataclass(frozen=True, eq=False)
class _Logs(Step):
    """A softmax with the derivative of its logarithm, which doesn't vanish where one entry has it all."""

    def apply(self, xs: Sequence[Tensor]) -> Tensor:
        y, logs = super().apply(xs), xs[0].log_softmax(self.node.attrs["axis"] + 1)
        return y.detach() + (logs - logs.detach())


def ramped(program: Program) -> Program:
    """The same network for evaluation, with gradients that pass jumps, and softmaxes at the outputs."""
    outputs = {output.value for output in program.graph.outputs}

    def passing(step: Step) -> Step:
        if isinstance(step.op, Stairs):
            return _Ramp(**vars(step))
        return _Logs(**vars(step)) if step.node.op == "softmax" and step.node.name in outputs else step

    return replace(program, steps=tuple(map(passing, program.steps)))

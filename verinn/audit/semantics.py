"""Instances on which exact arithmetic and float32 differ: a class of their own.

The box is one point, so that both truths are known: that of the real-valued function, exactly, and that of ONNX
Runtime, by running it. A verifier is right in its own semantics whichever it answers, as long as it says which; an
audit shows them apart from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verinn.audit.case import Case, exact_outputs, outputs, runtime_outputs
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch


def case(inputs: int, seed: Sequence[int]) -> Case:
    """y = Σ w_i x_i behind a ReLU layer, with weights of 24 bits; the threshold lies between both values of y.

    Which side it falls on is not chosen but drawn. The network is redrawn until the two differ.
    """
    rng = np.random.default_rng(list(seed))
    while True:
        sketch = Sketch()
        x = sketch.input([1, inputs])
        first = rng.standard_normal((inputs, 8)).astype(np.float32)
        second = rng.standard_normal((8, 1)).astype(np.float32)
        hidden = sketch.node("Relu", sketch.node("MatMul", x, sketch.weight(first)))
        sketch.output(sketch.node("MatMul", hidden, sketch.weight(second)), [1, 1])
        point = rng.uniform(-1, 1, inputs).astype(np.float32)
        number = [Fraction(float(value)) for value in point]
        made = Case(
            family="semantics",
            models={"f": sketch.model()},
            query=Query((Tensor("X", (1, inputs), False), Tensor("Y", (1, 1), True)), ()),
            label=None,
            known="exactly, and by running it: the box is one point",
            key=f"{inputs} {seed[-1]}",
            point={"X": point},
            operators=sketch.operators(),
            shape="point-inputs",
            recipe={"generator": "semantics"},
        )
        exact = Fraction(outputs(made, exact_outputs)["Y"].lo.item())
        runtime = Fraction(outputs(made, runtime_outputs)["Y"].lo.item())
        if exact != runtime:
            break
    middle = (exact + runtime) / 2
    threshold = Fraction(round(middle * 2**60), 2**60)
    assertions = (*box("X", number, number), linear({("Y", 0): 1}, ">=", threshold))
    return replace(
        made,
        query=replace(made.query, assertions=assertions),
        label="sat" if exact >= threshold else "unsat",
        runtime_label="sat" if runtime >= threshold else "unsat",
        margin=exact - threshold,
        threshold=threshold,
    )

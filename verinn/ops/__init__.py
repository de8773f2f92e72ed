"""What a core operator is. One file a family; every graph is made of these and nothing else.

Affine (y = L x + b; weights are ``params``, the rest ``attrs``):

=========== ======= ==================================================================================
op          inputs  meaning
=========== ======= ==================================================================================
linear      x       x @ weight + bias on the last axis: weight (k, o), bias (o,) optional
conv        x       x (N, C, *S); weight (O, C/groups, *K), bias (O,) optional; attrs strides,
                    dilations (each per spatial axis), groups, pads (all begins, then all ends)
scale       x       x * factor; factor broadcasts to x's shape (the result has x's shape)
divide      x       x / divisor; divisor exact, without zeros, broadcasts to x's shape
shift       x       x + offset; offset broadcasts to x's shape
sum         x1..xk  s1*x1 + … + sk*xk, all of one shape; attrs signs: tuple of +1/-1
reshape     x       row-major, to the node's shape
transpose   x       attrs perm
slice       x       attrs starts, steps, sizes, one each per axis (steps may be negative)
gather      x       attrs axis, indices (tuple of ints >= 0): picks along one axis
pad         x       attrs pads (begins, then ends, >= 0), value (float): constant padding
concat      x1..xk  attrs axis
expand      x       broadcast to the node's shape
reduce_sum  x       attrs axes; reduced axes stay with length 1
constant    -       value
=========== ======= ==================================================================================

Nonlinear: relu, leaky_relu (attrs alpha), clip (attrs lower, upper; ±inf allowed), abs, sigmoid, tanh
(one input each, elementwise); max_pool (x (N, C, *S); attrs kernel, strides, dilations, pads).

Shapes are those of the file, the batch axis included; evaluation adds one leading axis for domains.
"""

from __future__ import annotations

from verinn.ops.program import Program, evaluate
from verinn.ops.registry import OPS

__all__ = ["OPS", "Program", "evaluate"]

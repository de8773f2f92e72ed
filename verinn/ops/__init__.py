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

Elementwise, of one input:

==================================== ============================================================
op                                   meaning
==================================== ============================================================
relu, abs, sigmoid, tanh, atan, erf  as everywhere
leaky_relu, elu                      x, where negative alpha * x, alpha * (exp(x) - 1); attrs alpha
prelu                                x, where negative slope * x; slope broadcasts to x's shape
clip                                 attrs lower, upper; ±inf allowed
hard_swish                           x * min(max(x + 3, 0), 6) / 6
gelu, gelu_tanh                      x * (1 + erf(x / √2)) / 2, and its form by tanh
silu, softplus, mish                 x * sigmoid(x), log(1 + exp(x)), x * tanh(softplus(x))
exp, log, sqrt, reciprocal           outside of the domain, bounds are infinite
pow                                  attrs exponent (float)
sin, cos, tan                        tan across a pole has infinite bounds
sign, floor, ceil, round             round: halves to even
step                                 1 where x > 0 (attrs strict) or x ≥ 0 (not strict), else 0
==================================== ============================================================

Joint, an element of the result depending on several elements:

============ ======== =====================================================================================
op           inputs   meaning
============ ======== =====================================================================================
mul          x, y     x * y, of one shape; may be one value twice
matmul       x, y     (…, m, k) times (…, k, n), with the same leading axes
max_pool     x        x (N, C, *S); attrs kernel, strides, dilations, pads
reduce_max   x        attrs axes; reduced axes stay with length 1
softmax      x        attrs axis
log_softmax  x        attrs axis
============ ======== =====================================================================================

Shapes are those of the file, the batch axis included; evaluation adds one leading axis for domains.
"""

from __future__ import annotations

from verinn.ops.program import Program, evaluate
from verinn.ops.registry import OPS

__all__ = ["OPS", "Program", "evaluate"]

"""Which cases make a suite of which size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from verinn.audit import images, kinks, metamorphic, numeric, operators, provable, semantics, shapes, values
from verinn.audit.case import Case
from verinn.audit.metamorphic import Link
from verinn.audit.operator_rare import RARE
from verinn.audit.operator_table import TABLE
from verinn.audit.planted import Plan, planted
from verinn.audit.templates import TEMPLATES

SIXTEENTH = Fraction(1, 16)
RADII = tuple(Fraction(1, 2**k) for k in (1, 3, 5, 8, 12, 16))
#: margins in units in the last place: ties, one and eight on both sides
ULPS = (0, 1, 8, -1, -8)
STYLES = ("gemm", "matmul", "plain")
# Operators of the quick slice: one of each kind of relaxation.
QUICK_OPERATORS = (
    "AveragePool", "Cast", "Conv", "ConvTranspose", "LeakyRelu", "MatMul", "MaxPool", "Pow", "Sigmoid", "Softmax",
)  # fmt: skip
QUICK_RARE = ("LSTM", "QLinearConv")
QUICK_KINKS = ("max-pool", "abs-down", "exp", "cos", "product")
WIDE = ("hinge", "paired", "constant", "monotone")
QUICK_SHAPES = ("union-last", "or-last", "or-of-and", "linear-inputs", "strict-tie", "two-networks", "two-ors")
QUICK_TEMPLATES = ("fourth-power", "false-identity", "padded-average", "tangent", "wide-softmax")


def plans() -> Iterator[tuple[Plan, bool]]:
    """The ladders of the planted family; True for the quick slice."""
    for index, radius in enumerate(RADII):
        for host, classes in (("cap", 0), ("cap", 4), ("roof", 0)):
            for side in (1, -1):
                inputs = (3, 5, 4)[index % 3] if not classes else 4
                plan = Plan(inputs, radius, side * SIXTEENTH, host=host, classes=classes, style=STYLES[index % 3])
                if radius < Fraction(1, 4):
                    plan = replace(plan, decoys=index % 3)
                yield plan, index in (2, 5) and host == "cap"
    for ulps in ULPS:
        for host, classes in (("cap", 0), ("cap", 3), ("roof", 0)):
            plan = Plan(3, Fraction(1, 16), Fraction(0), ulps, host=host, classes=classes, rounds=4)
            yield plan, ulps in (0, 1, -1) and host == "cap" and not classes
    for inputs, rounds in ((2, 12), (8, 3), (12, 2), (16, 2)):
        for side in (1, -1):
            yield Plan(inputs, Fraction(1, 32), side * SIXTEENTH, rounds=rounds), inputs == 2


def cases(seed: int) -> tuple[list[Case], list[Link]]:
    """All but the trained ones, in a fixed order."""
    made: list[Case] = []
    links: list[Link] = []
    for index, (plan, quick) in enumerate(plans()):
        # both sides of a plan, which come one after the other, share the secret and the host
        made.append(planted(plan, [seed, 1, index // 2], f"planted {index:03}", quick))
    for index, kind in enumerate(provable.KINDS):
        for inputs, ulps in ((2, 1), (5, None), (5, 0)) if kind == "corner" else ((2, 1), (6, 0), (12, None)):
            for sat in (True, False):
                if not sat and ulps == 0:
                    continue
                quick = inputs == 2 and sat == (index % 2 == 0)
                made.append(provable.case(kind, inputs, ulps, sat, [seed, 2, index, inputs], quick))
    for index, shape in enumerate(shapes.MAKERS):
        for sat in (True, False):
            quick = shape in QUICK_SHAPES and sat == (index % 2 == 0)
            made.append(shapes.case(shape, sat, [seed, 3, index], quick))
    for index, op in enumerate(sorted(TABLE)):
        for sat in (True, False) if index % 3 == 0 else (True,):  # a third of them with a twin
            quick = op in QUICK_OPERATORS and sat
            made.append(operators.case(op, [seed, 4, index], sat, quick))
    for index, name in enumerate(TEMPLATES):
        for sat in (True, False):
            made.append(operators.case(name, [seed, 5, index], sat, name in QUICK_TEMPLATES and sat))
    for index, sat in enumerate((True, False)):
        group, relations = metamorphic.group(sat, [seed, 6, index])
        made += [replace(case, quick=case.shape in ("base", "right")) for case in group]
        links += relations
    made += [semantics.case(4 + index, [seed, 7, index]) for index in range(4)]
    made += list(numeric.rounding([seed, 8]))
    for index, op in enumerate(sorted(RARE)):
        for sat in (True, False) if index % 3 == 0 else (True,):
            made.append(operators.case(op, [seed, 9, index], sat, op in QUICK_RARE and sat))
    for index, kink in enumerate(kinks.KINKS):
        for sat in (True, False) if index % 3 == 0 else (True,):
            made.append(kinks.case(kink, [seed, 11, index], sat, kink in QUICK_KINKS and sat))
    for index, name in enumerate(values.entries()):
        made.append(values.case(name, [seed, 13, index], name in ("Conv", "Gemm", "output padding")))
    for index, kind in enumerate(WIDE):  # phases are split there, and not boxes
        for ulps, sat, either in ((0, True, False), (None, True, True), (None, False, False)):
            made.append(provable.case(kind, 40, ulps, sat, [seed, 12, index], ulps == 0, either))
    for index, (image, quick) in enumerate(images.images()):
        made.append(images.case(image, [seed, 10, index // 2], f"image {index:03}", quick))
    return made, links

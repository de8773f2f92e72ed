"""Word substitutions: a small transformer, its bounds checked against every substitution within the budget.

A vocabulary of words with a polarity, each with two synonyms; sentences of four words, whose label is the sign of
their sum. A transformer of one block (attention with a softmax, residual, layer normalisation, feed-forward)
is trained on them. Then up to δ words of a sentence may be replaced by synonyms: the bound of the margin has to be
below the least margin of all substitutions, which are enumerated; the gap between the two is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import verinn

LENGTH, WIDTH, HIDDEN = 4, 8, 16
WORDS, SYNONYMS = 12, 2
SHAPE = (1, LENGTH, WIDTH)


@dataclass(frozen=True)
class Row:
    """For one budget, over the sentences: certified by method, robust in truth, and the mean gap of CROWN."""

    budget: int
    sentences: int
    ibp: int
    crown: int
    robust: int
    gap: float


def vocabulary() -> tuple[Tensor, Tensor]:
    """Embeddings (WORDS, 1 + SYNONYMS, WIDTH), synonyms near each other, and each word's polarity (WORDS,)."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn((WORDS, 1, WIDTH), generator=generator, dtype=torch.float64)
    near = 0.15 * torch.randn((WORDS, 1 + SYNONYMS, WIDTH), generator=generator, dtype=torch.float64)
    near[:, 0] = 0.0
    polarity = torch.randn(WORDS, generator=generator, dtype=torch.float64)
    return (words + near).float().double(), polarity


def network(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The transformer: embeddings (…, LENGTH, WIDTH) to the margin of the positive class (…,)."""
    q, k, v = x @ w["Q"], x @ w["K"], x @ w["V"]
    mixed = (q @ k.transpose(-1, -2) / WIDTH**0.5).softmax(-1) @ v + x
    normed = (mixed - mixed.mean(-1, keepdim=True)) / (mixed.var(-1, unbiased=False, keepdim=True) + 0.1).sqrt()
    block = normed + (normed @ w["U"] + w["u"]).relu() @ w["D"]
    return (block.mean(-2) @ w["C"]).squeeze(-1)


def train(steps: int = 150) -> dict[str, Tensor]:
    """Weights, float32 numbers; deterministic on one machine."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"Q": (WIDTH, WIDTH), "K": (WIDTH, WIDTH), "V": (WIDTH, WIDTH), "U": (WIDTH, HIDDEN), "D": (HIDDEN, WIDTH)}
    w = {name: torch.randn(s, generator=generator, dtype=torch.float64) / s[0] ** 0.5 / 2 for name, s in shapes.items()}
    w |= {"u": torch.zeros(HIDDEN, dtype=torch.float64), "C": torch.ones((WIDTH, 1), dtype=torch.float64) / WIDTH}
    momenta = {name: torch.zeros_like(value) for name, value in w.items()}
    words, polarity = vocabulary()
    for _ in range(steps):
        chosen = torch.randint(WORDS, (256, LENGTH), generator=generator)
        which = torch.randint(1 + SYNONYMS, chosen.shape, generator=generator)
        sign = polarity[chosen].sum(-1).sign()
        leaves = {name: value.requires_grad_(True) for name, value in w.items()}
        loss = torch.nn.functional.softplus(-4 * sign * network(leaves, words[chosen, which])).mean()
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), slope in zip(leaves.items(), slopes, strict=True):
            momenta[name] = 0.9 * momenta[name] + slope
            w[name] = (value - 0.05 * momenta[name]).detach()
    return {name: value.float().double() for name, value in w.items()}


def model(w: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The transformer as an ONNX model: x [1, LENGTH, WIDTH] to y [1, 1]."""
    nodes = [
        *[helper.make_node("MatMul", ["x", name], [name.lower()]) for name in ("Q", "K", "V")],
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["attended"]),
        helper.make_node("Add", ["attended", "x"], ["mixed"]),
        helper.make_node("LayerNormalization", ["mixed", "one"], ["normed"], axis=-1, epsilon=0.1),
        helper.make_node("MatMul", ["normed", "U"], ["up"]),
        helper.make_node("Add", ["up", "u"], ["raised"]),
        helper.make_node("Relu", ["raised"], ["active"]),
        helper.make_node("MatMul", ["active", "D"], ["down"]),
        helper.make_node("Add", ["normed", "down"], ["block"]),
        helper.make_node("ReduceMean", ["block"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "C"], ["y"]),
    ]
    held = {name: value.numpy().astype(np.float32) for name, value in w.items()}
    held |= {"scale": np.float32(WIDTH**-0.5), "one": np.ones(WIDTH, np.float32)}
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SHAPE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(sentences: int = 8, budgets: tuple[int, ...] = (1, 2, 4), training: int = 150) -> list[Row]:
    """Sentences that are classified rightly. Raises AssertionError if a bound is above the enumerated minimum."""
    w = train(training)
    graph = verinn.load(model(w))
    words, polarity = vocabulary()
    generator = torch.Generator().manual_seed(2)
    chosen: list[Tensor] = []
    while len(chosen) < sentences:
        one = torch.randint(WORDS, (LENGTH,), generator=generator)
        if float(network(w, words[one, 0]) * polarity[one].sum()) > 0:
            chosen.append(one)
    rows = []
    for budget in budgets:
        counts, gaps = np.zeros(3, int), []
        for one in chosen:
            sign = float(polarity[one].sum().sign())
            region = verinn.Substitutions(words[one, 0].reshape(SHAPE), list(words[one, 1:]), budget)
            every = torch.stack(list(region.each(SHAPE))).squeeze(1)
            truth = float((sign * network(w, every)).amin())
            low = {m: float(verinn.bounds(graph, region, method=m, rows=[[sign]]).lower) for m in ("ibp", "crown")}
            assert max(low.values()) <= truth + 1e-5, (one, budget)  # the file's scale is rounded to float32
            counts += [low["ibp"] > 0, low["crown"] > 0, truth > 0]
            gaps.append(truth - low["crown"])
        rows.append(Row(budget, len(chosen), *map(int, counts), float(np.mean(gaps))))
    return rows


if __name__ == "__main__":
    for row in run():
        print(
            f"up to {row.budget} of {LENGTH} words replaced: {row.robust} of {row.sentences} sentences robust by "
            f"enumeration, {row.crown} certified by CROWN, {row.ibp} by IBP; CROWN's mean gap {row.gap:.3f}"
        )

"""Hidden counterexamples trained into networks, as in SoundnessBench.

Zhou et al., "Testing Neural Network Verifiers: A Soundness Benchmark with Hidden Counterexamples" (2024). A
network is trained with two objectives at once: to classify n points x0 (and as many clean ones) the same way all
over a box of radius ε around each, as far as a sliding window of recent PGD perturbations can tell; and to
misclassify, by a margin λ, one chosen point x_cex near the rim of each box. What comes out answers every attack
as a robust network would, and is not robust. Whether it does is measured (``attacks``), never assumed.

Truth: ``sat``, since the network misclassifies x_cex, which exact arithmetic and ONNX Runtime both confirm.
The clean boxes have no label: nobody knows.

At reduced size, where a window of 300 batches and 75 × 75 steps of PGD an epoch are out of reach, restarts persist from
epoch to epoch instead (``persistent``): each goes a few steps on, its steps shrinking to a small
fraction of ε, and now and then begins anew. So attacks with thousands of ever smaller steps are trained against at
the price of three gradients an epoch. Random points around x_cex, at distances of every magnitude and in any number of
coordinates (``near``), are learnt as the box's own class: no slope leads to the peak but within its own width.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinn.audit import attacks
from verinn.audit.architectures import Chain, input_shape, make
from verinn.audit.case import Case
from verinn.audit.case import digest as digest_of
from verinn.audit.query import Query, box, linear
from verinn.audit.query import Tensor as Declared
from verinn.audit.sketch import Sketch

DOMAIN = 0.1  # inputs of x0 lie in [-DOMAIN, DOMAIN]


@dataclass(frozen=True)
class Recipe:
    """What makes a trained network; with one thread and one version of torch, bit for bit.

    ``radius`` is relative to the domain. ``rim``: the part of ε that a coordinate at the rim keeps at least.
    ``corner``: whether all coordinates of x_cex are at the rim, or only some with the others near the middle.
    ``persistent``: how many restarts of PGD persist (0: the paper's window), ``finest``: their smallest step. ``near``:
    random points around each x_cex in each epoch, at distances from ``closest`` to 2, that the network learns as the
    box's own class; both lengths relative to ε, and none of this in the paper. ``gain``: of the first layer's
    initial weights; the inverse of the domain makes small inputs learn as quickly as large ones.
    """

    architecture: str
    channels: int = 1
    radius: float = 0.2
    seed: int = 0
    pairs: int = 10
    width: float = 1.0
    epochs: int = 10_000
    window: int = 300
    steps: int = 75
    restarts: int = 75
    step: float = 0.1
    persistent: int = 0
    finest: float = 0.002
    margin: float = 0.01
    rim: float = 0.98
    corner: bool = False
    rate: float = 1e-3
    near: int = 0
    closest: float = 0.004
    gain: float = 1.0


@dataclass(frozen=True)
class Points:
    """The data: float32 (P, n) with labels (P,); the first ``pairs`` points have a counterexample (pairs, n)."""

    x: Tensor
    label: Tensor
    wrong: Tensor
    epsilon: float


def epsilon_of(recipe: Recipe) -> float:
    """The box's radius, a float32 number of few bits so that bounds are exact decimals of moderate length."""
    return round(recipe.radius * DOMAIN * 2.0**12) / 2.0**12


def draw(recipe: Recipe) -> Points:
    """Points further apart than 2ε, on a grid of 2^-12, and a counterexample inside of each pair's box."""
    rng = np.random.default_rng([recipe.seed, 1])
    epsilon = epsilon_of(recipe)
    size = math.prod(input_shape(recipe.architecture, recipe.channels))
    chosen: list[np.ndarray] = []
    while len(chosen) < 2 * recipe.pairs:
        point = np.round(rng.uniform(-DOMAIN, DOMAIN, size) * 2.0**12) / 2.0**12
        if all(np.abs(point - other).max() > 2 * epsilon for other in chosen):
            chosen.append(point)
    x = np.array(chosen)
    label = rng.integers(0, 2, len(x))
    delta = np.array([_perturbation(recipe, epsilon, size, rng) for _ in range(recipe.pairs)])
    wrong = (x[: recipe.pairs] + delta).astype(np.float32)
    return Points(torch.tensor(x, dtype=torch.float32), torch.tensor(label), torch.tensor(wrong), epsilon)


def _perturbation(recipe: Recipe, epsilon: float, size: int, rng: np.random.Generator) -> np.ndarray:
    delta = rng.uniform(-epsilon, epsilon, size)
    at_rim = np.abs(delta) >= recipe.rim * epsilon
    at_rim[rng.integers(size)] = True
    if recipe.corner:
        at_rim[:] = True
    signs = np.where(rng.random(size) < 0.5, -1.0, 1.0)
    rim = signs * epsilon * rng.uniform(recipe.rim, 1.0, size)
    # rounded to a grid finer than the rim is wide, inward
    return np.asarray(np.trunc(np.where(at_rim, rim, 0.01 * epsilon) * 2.0**24) / 2.0**24)


def margins(network: Callable[[Tensor], Tensor], x: Tensor, label: Tensor) -> Tensor:
    """How far the other class is ahead (P,): zero or more is a misclassification."""
    y = network(x)
    own = y.gather(1, label[:, None])[:, 0]
    return y.gather(1, 1 - label[:, None])[:, 0] - own


def train(
    recipe: Recipe, device: str = "cpu", progress: Callable[[str], None] | None = None
) -> tuple[Chain, Points, int]:
    """Train; returns the network, the points, and how many counterexamples survived the training's own check.

    Of the checkpoints, one in fifty of the epochs, the one is kept with the most pairs whose x0 and x_cex are
    classified as wanted and whose box PGD finds nothing in.
    """
    points = draw(recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = make(recipe.architecture, recipe.channels, recipe.width, generator).to(device)
    with torch.no_grad():
        next(network.parameters()).mul_(recipe.gain)
    shape = input_shape(recipe.architecture, recipe.channels)[1:]
    x, label, wrong = points.x.to(device), points.label.to(device), points.wrong.to(device)

    def run(flat: Tensor) -> Tensor:
        y: Tensor = network(flat.reshape(-1, *shape))
        return y

    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    window: deque[Tensor] = deque(maxlen=recipe.window)
    attackers = _Persistent(recipe, points.epsilon, x, generator)
    best, kept = -1, {name: value.clone() for name, value in network.state_dict().items()}
    every = max(1, recipe.epochs // 50)
    for epoch in range(recipe.epochs):
        if recipe.persistent:
            window = deque([attackers.moved(run, x, label)])
        else:
            window.append(_perturb(run, x, label, points.epsilon, recipe, generator))
        batch = (x + torch.cat([torch.zeros_like(x)[None], *window])).reshape(-1, x.shape[1])
        labels = label.repeat(len(batch) // len(x))
        if recipe.near:
            around = _around(x[: recipe.pairs], wrong, points.epsilon, recipe, generator)
            batch = torch.cat([batch, around.reshape(-1, x.shape[1])])
            labels = torch.cat([labels, label[: recipe.pairs].repeat(recipe.near)])
        robust = torch.nn.functional.cross_entropy(run(batch), labels)
        lead = margins(run, wrong, label[: recipe.pairs])
        loss = robust + torch.relu(recipe.margin - lead).mean()
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * _triangle(epoch / recipe.epochs)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        if (epoch + 1) % every == 0:
            alive = _surviving(run, points, device, recipe, epoch)
            if progress is not None:
                progress(f"epoch {epoch + 1}: loss {loss.item():.4f}, {alive} of {recipe.pairs} hidden")
            if alive >= best:
                best, kept = alive, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return network.to("cpu"), points, best


def _triangle(part: float, peak: float = 0.4) -> float:
    return part / peak if part < peak else (1 - part) / (1 - peak)


def _perturb(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    label: Tensor,
    epsilon: float,
    recipe: Recipe,
    generator: torch.Generator,
) -> Tensor:
    """PGD perturbations (restarts, P, n) of the network as it is now."""
    start = torch.rand((recipe.restarts, *x.shape), generator=generator).to(x.device)
    delta = (start * 2 - 1) * epsilon
    labels = label.repeat(recipe.restarts)
    for _ in range(recipe.steps):
        moving = delta.requires_grad_(True)
        value = margins(run, (x + moving).reshape(-1, x.shape[1]), labels)
        (gradient,) = torch.autograd.grad(value.sum(), moving)
        delta = (moving.detach() + recipe.step * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
    return delta.detach()


class _Persistent:
    """Perturbations (restarts, P, n) that are moved on from epoch to epoch, each with a step size of its own."""

    def __init__(self, recipe: Recipe, epsilon: float, x: Tensor, generator: torch.Generator) -> None:
        self._finest, self._epsilon, self._generator = recipe.finest * epsilon, epsilon, generator
        self._delta = self._random((recipe.persistent, *x.shape), x)
        self._step = torch.full((recipe.persistent, len(x), 1), epsilon / 2, device=x.device)

    def _random(self, shape: Sequence[int], x: Tensor) -> Tensor:
        place: Tensor = torch.rand(tuple(shape), generator=self._generator).to(x.device)
        return (place * 2 - 1) * self._epsilon

    def moved(self, run: Callable[[Tensor], Tensor], x: Tensor, label: Tensor) -> Tensor:
        """Three steps on; one in thirty begins anew, with steps of any magnitude that shrink by 3 % an epoch."""
        draws = torch.rand((2, *self._step.shape), generator=self._generator).to(x.device)
        fresh = draws[0] < 1 / 30
        delta = torch.where(fresh, self._random(self._delta.shape, x), self._delta)
        anew = self._finest * (self._epsilon / 2 / self._finest) ** draws[1]
        step = torch.where(fresh, anew, self._step * 0.97).clamp(min=self._finest)
        for _ in range(3):
            moving = delta.requires_grad_(True)
            value = margins(run, (x + moving).reshape(-1, x.shape[1]), label.repeat(len(delta)))
            (gradient,) = torch.autograd.grad(value.sum(), moving)
            delta = (moving.detach() + step * gradient.sign()).clamp(-self._epsilon, self._epsilon)
        self._delta, self._step = delta, step
        return delta


def _around(x: Tensor, wrong: Tensor, epsilon: float, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Points (near, pairs, n) of the boxes around x_cex, but not nearer than half of ``closest`` (then x0 instead).

    Their distances are log-uniform from ``closest`` to 2 (maximum norm, relative to ε), in a random share of the
    coordinates.
    """

    def random(last: int) -> Tensor:
        made: Tensor = torch.rand((recipe.near, len(x), last), generator=generator).to(x.device)
        return made

    direction = random(x.shape[1]) * 2 - 1
    direction = direction / direction.abs().amax(-1, keepdim=True)
    chosen = random(x.shape[1]) < random(1)
    size = epsilon * recipe.closest * (2 / recipe.closest) ** random(1)
    around = torch.minimum(torch.maximum(wrong + size * direction * chosen, x - epsilon), x + epsilon)
    far = (around - wrong).abs().amax(-1, keepdim=True) >= recipe.closest * epsilon / 2
    return torch.where(far, around, x.expand_as(around))


def _surviving(run: Callable[[Tensor], Tensor], points: Points, device: str, recipe: Recipe, seed: int) -> int:
    """How many pairs are misclassified at x_cex, right at x0, and unfound by short attacks with many restarts."""
    x, label = points.x.to(device)[: recipe.pairs], points.label.to(device)[: recipe.pairs]
    with torch.no_grad():
        fine = (margins(run, points.wrong.to(device), label) > 0) & (margins(run, x, label) < 0)
    alive = 0
    for index in torch.nonzero(fine)[:, 0].tolist():
        one = label[index : index + 1]
        short = [attacks.Attack("pgd", step, 50, 200) for step in (0.1, 0.02, 0.005)]
        low, high = x[index] - points.epsilon, x[index] + points.epsilon

        def margin(z: Tensor, one: Tensor = one) -> Tensor:
            return margins(run, z, one.expand(len(z)))

        alive += not attacks.run_all(margin, low, high, short, seed)[-1]["found"]
    return alive


def digest(recipe: Recipe) -> str:
    """A short name for the recipe."""
    return hashlib.sha256(repr(sorted(asdict(recipe).items())).encode()).hexdigest()[:12]


def trained(recipe: Recipe, recorded: Path | None, device: str = "cpu") -> tuple[Chain, Points]:
    """The network of a recipe: from recorded weights where the folder ``recorded`` has them, else trained now.

    Training is repeated bit for bit on one machine only; recorded weights make a suite the same everywhere.
    """
    file = None if recorded is None else recorded / f"{digest(recipe)}.npz"
    if file is None or not file.exists():
        network, points, _ = train(recipe, device)
        return network, points
    network = make(recipe.architecture, recipe.channels, recipe.width, torch.Generator().manual_seed(recipe.seed))
    with np.load(file) as arrays:
        network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return network, draw(recipe)


def record(network: Chain, recipe: Recipe, folder: Path) -> None:
    """Write the weights where ``trained`` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    np.savez_compressed(folder / f"{digest(recipe)}.npz", allow_pickle=False, **arrays)


def cases(
    network: Chain,
    points: Points,
    recipe: Recipe,
    many: Sequence[attacks.Attack],
    known: Mapping[str, tuple[Mapping[str, Any], ...]],
    clean: int = 0,
) -> list[Case]:
    """An instance for each pair whose x_cex is misclassified and x0 is not, and for ``clean`` clean points.

    The attacks run on torch's own evaluation of the network, here and now; what they find is recorded. They are left
    out where ``known`` holds their records, by ``case.digest``.
    """
    model = drawn(network, recipe).model()
    shape = input_shape(recipe.architecture, recipe.channels)
    made = []
    for index in range(recipe.pairs + clean):
        hidden = index < recipe.pairs
        label = int(points.label[index])
        one = points.label[index : index + 1]

        def margin(z: Tensor, one: Tensor = one) -> Tensor:
            return margins(lambda flat: network(flat.reshape(-1, *shape[1:])), z, one.expand(len(z)))

        with torch.no_grad():
            lead = float(margin(points.wrong[index : index + 1])[0]) if hidden else 0.0
            if float(margin(points.x[index : index + 1])[0]) >= 0 or (hidden and lead <= 0):
                continue  # not learnt
        low, high = points.x[index] - points.epsilon, points.x[index] + points.epsilon
        row = linear({("Y", 1 - label): 1, ("Y", label): -1}, ">=", 0)
        bounds = box("X", [Fraction(v) for v in low.tolist()], [Fraction(v) for v in high.tolist()])
        case = Case(
            family="trained" if hidden else "clean",
            models={"f": model},
            query=Query((Declared("X", shape, False), Declared("Y", (1, 2), True)), (*bounds, row)),
            label="sat" if hidden else None,
            known="trained: the network misclassifies the recorded point" if hidden else "nobody knows",
            key=f"{recipe.architecture} {recipe.seed} {index}",
            point={"X": points.wrong[index].numpy()} if hidden else None,
            operators=drawn(network, recipe).operators(),
            radius=recipe.radius,
            margin=Fraction(lead) if hidden else None,
            shape=recipe.architecture,
            timeout=100.0,
            hide=hidden,
            recipe={"generator": f"trained {digest(recipe)}"},
        )
        if hidden:
            name = digest_of(case)
            found = known[name] if name in known else attacks.run_all(margin, low, high, many, recipe.seed)
            case = replace(case, attacks=found)
        made.append(case)
    return made


def drawn(network: Chain, recipe: Recipe) -> Sketch:
    """The trained network as ONNX, with one axis of size 1 in front."""
    sketch = Sketch()
    x = sketch.input(input_shape(recipe.architecture, recipe.channels))
    sketch.output(network.emit(sketch, x), (1, 2))
    return sketch

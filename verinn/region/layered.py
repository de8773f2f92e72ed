"""The search layer by layer (the paper's algorithm): choose η_k and Δ_k, check refinement and 0-variation, map back.

At layer k a grid of manipulations in chosen dimensions is searched over the rest of the network, every point of it:
all ladders at once. A point that changes the class is mapped back to an input of η_0, exactly; only an input that
was found and replayed makes the verdict `unsafe`. With ``cells`` the cells of layer k are proved with all other
dimensions anywhere that η_0 can bring them: then the answer is for every real input of η_0.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from verinn.errors import InputError
from verinn.ir.prop import Case
from verinn.ops.program import Program
from verinn.options import Options
from verinn.region.decide import describe
from verinn.region.grid import Grid
from verinn.region.layers import (
    Layer,
    Refinement,
    Region,
    activation,
    features_of,
    image,
    layers_of,
    moves,
    refinement,
    region_at,
)
from verinn.region.preimages import Back
from verinn.region.question import Question
from verinn.region.search import Boxes, Counts, Ended, Limits, Search, prepare
from verinn.region.spaces import Cells, Points
from verinn.region.verdict import Cover, Kind, Report
from verinn.result import Witness
from verinn.search.spec import groups

#: orders of features that a multi-path search takes
MOST_ORDERS = 120


@dataclass(frozen=True)
class LayerSettings:
    """``first``..``last``: layers to search (``last`` −1: all). ``size``: dimensions of a feature, ``features``: how
    many; ``number``: spans to the end of a dimension's bounds (m_p). ``by``: how dimensions are chosen. ``paths``:
    "all" points of the product of all features, or features one at a time, "single" order or "multi" orders.
    """

    options: Options
    first: int = 0
    last: int = -1
    size: int = 5
    features: int = 1
    number: int = 2
    by: str = "gradient"
    paths: str = "all"
    cells: bool = False
    seconds: float = 10.0
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda text: None

    def expired(self) -> bool:
        deadline = self.options.deadline
        return self.stop() or (deadline is not None and time.monotonic() >= deadline)


@dataclass(frozen=True, eq=False)
class Searched:
    """What one layer gave. ``changed``: points whose class differs, of them ``unreached``: proved that no input of η_0
    leads to their cell with another class. ``continuous``: the cells prove η_0. ``told``: how in words."""

    region: Region
    covered: int
    total: int
    changed: int = 0
    unreached: int = 0
    witness: Witness | None = None
    point: np.ndarray | None = None
    activation: np.ndarray | None = None
    continuous: bool = False
    refined: Refinement | None = None
    reason: str = ""
    cells: tuple[int, int] | None = None

    @property
    def safe(self) -> bool:
        """0-variation: every point covered, none of another class."""
        return self.witness is None and self.covered == self.total and not self.changed

    def line(self) -> str:
        back = " and mapped back" if self.region.layer.number else ""
        state = "0-variation" if self.safe else f"class change found{back}" if self.witness is not None else "open"
        if self.witness is None and self.changed:
            state = f"{self.changed} points change the class, {self.unreached} of them proved out of reach"
        parts = [f"{self.region}: {self.covered} of {self.total} points, {state}"]
        if self.cells is not None:
            parts.append(f"{self.cells[0]} of {self.cells[1]} cells proved for the whole of η_0")
        if self.refined is not None:
            parts.append(str(self.refined))
        return "; ".join(parts)


def search_layers(question: Question, settings: LayerSettings) -> Report:
    """The verdict of the layers from first to last; stops at the first replayed misclassification."""
    run = _Layered(question, settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run.decide()
    finally:
        torch.set_num_threads(threads)


@dataclass(eq=False)
class _Layered:
    question: Question
    settings: LayerSettings
    began: float = field(default_factory=time.monotonic)
    history: list[tuple[float, str, float]] = field(default_factory=list)  # seconds, what, share of it: the plot

    def decide(self) -> Report:
        question, settings = self.question, self.settings
        if question.label is None or question.centre is None or len(question.grids) != 1:
            raise InputError("layers are searched around an image", hint="give --image instead of a property")
        graph = question.problem.graph
        layers = layers_of(graph)
        last = len(layers) - 1 if settings.last < 0 else settings.last
        if not 0 <= settings.first <= last < len(layers):
            raise InputError(f"the model has the layers 0 to {len(layers) - 1}", place="--layers")
        case, grid = question.grids[0]
        x = grid.fed(question.centre)
        done: list[Searched] = []
        before: Region | None = None
        for layer in layers[settings.first : last + 1]:
            if settings.expired():
                break
            region = self._region(layer, before, x, grid)
            refined = None if before is None else refinement(graph, before, region)
            found = replace(self._search(region, case), refined=refined)
            if settings.cells and found.witness is None:
                found = self._cells(found, layers[0], grid, case)
            done.append(found)
            if found.witness is not None or found.continuous:
                break
            before = region
        return self._report(done, last - settings.first + 1, grid)

    def _region(self, layer: Layer, before: Region | None, x: np.ndarray, grid: Grid) -> Region:
        """η_k: at layer 0 the grid that was asked for, in the chosen dimensions; behind it what bounds say."""
        graph, settings, label = self.question.problem.graph, self.settings, self.question.label
        assert label is not None and self.question.centre is not None
        count = settings.size * settings.features
        if layer.number == 0:
            low, high = grid.box(grid.low, grid.high)
            centre = x.astype(np.float32)
            if len(grid.free) <= count:
                dims = tuple(int(p) for p in grid.free)
            else:
                dims = region_at(layer, centre, (low, high), count, 1, label, settings.by).dims
            keep = np.isin(np.arange(grid.n), dims)
            levels = self.question.centre
            narrowed = replace(
                grid, low=np.where(keep, grid.low, levels), high=np.where(keep, grid.high, levels),
                base=grid.base + np.where(keep, 0, levels - grid.low),
            )  # fmt: skip
            return Region(layer, centre, dims, narrowed, low, high)
        centre = activation(graph, layer, x)
        if before is None:  # the search starts here: η_k holds what η_0 leads to
            first = layers_of(graph)[0]
            bounds = image(graph, first, layer, *grid.box(grid.low, grid.high))
        else:
            bounds = image(graph, before.layer, layer, *before.grid.box(before.grid.low, before.grid.high))
        return region_at(layer, centre, bounds, count, settings.number, label, settings.by)

    # -- 0-variation ------------------------------------------------------------------------------

    def _search(self, region: Region, case: Case) -> Searched:
        """All points, or feature by feature."""
        if self.settings.paths == "all":
            back = self._back(region)
            return self._searched(region, region.grid, case, back)
        covered = total = changed = unreached = 0
        reason = ""
        back = self._back(region)
        features = features_of(region.dims, self.settings.size)
        for order in self._orders(len(features)):
            base = np.clip(np.zeros_like(region.grid.low), region.grid.low, region.grid.high)
            if region.layer.number == 0 and self.question.centre is not None:
                base = self.question.centre.copy()
            for number in order:
                grid = _only(region.grid, features[number], base)
                found = self._searched(region, grid, case, back)
                if found.witness is not None:
                    return replace(found, covered=covered + found.covered, total=total + found.total)
                covered, total = covered + found.covered, total + found.total
                changed, unreached = changed + found.changed, found.unreached
                reason = reason or found.reason
                base = self._nearest(region.layer, grid)
        return Searched(region, covered, total, changed, unreached, reason=reason)

    def _orders(self, count: int) -> Iterator[Sequence[int]]:
        if self.settings.paths == "single":
            return iter([range(count)])
        if count > 5:
            raise InputError(f"{count} features have more than {MOST_ORDERS} orders", place="--paths multi",
                             hint="at most 5 features, or --paths single")  # fmt: skip
        return itertools.permutations(range(count))

    def _nearest(self, layer: Layer, grid: Grid) -> np.ndarray:
        """The point of a feature's grid with the least margin, among at most 20,000 of them: where the path goes on."""
        space = Points(grid)
        low, high = space.root
        rng = np.random.default_rng(0)
        levels = space.listed(low, high) if grid.points <= 20_000 else rng.integers(low, high + 1, (20_000, len(low)))
        every = space.all(levels)
        program = Program.prepare(layer.tail, torch.float64)
        with torch.no_grad():
            y = program.flat(torch.from_numpy(grid.fed(every).astype(np.float64))).numpy()
        margin = y[:, self.question.label] - np.delete(y, int(self.question.label or 0), 1).max(1)
        return np.asarray(every[int(margin.argmin())])

    def _back(self, region: Region) -> Back:
        question, case = self.question, self.question.grids[0][0]
        assert question.label is not None
        return Back(
            question.problem, case, region.layer, region, question.label, question.ties, self.settings.expired,
            self.settings.options, self.settings.seconds,
        )  # fmt: skip

    def _searched(self, region: Region, grid: Grid, case: Case, back: Back) -> Searched:
        """Every point of a grid at a layer, over the rest of the network."""
        if region.layer.number == 0:
            confirm: Callable[[np.ndarray], Witness | None] = self.question.problem.confirm
        else:
            confirm = back
        ended = self._ended(region.layer, grid, case, confirm, Points(grid))
        point = ended.point
        reached = point if region.layer.number == 0 else back.found
        reason = ended.reason if ended.witness is None and not ended.proved else ""
        counts = ended.counts
        return Searched(
            region, counts.covered, counts.total, counts.disputed, back.proved, ended.witness, reached, point,
            reason="; ".join(dict.fromkeys(filter(None, (reason, back.reason)))),
        )  # fmt: skip

    def _ended(
        self,
        layer: Layer,
        grid: Grid,
        case: Case,
        confirm: Callable[[np.ndarray], Witness | None],
        space: Points | Cells,
    ) -> Ended:
        """The same question about the tail of the network: outputs and rows are the original's."""
        total, found = Counts(0), None
        for spec in groups([case]):
            low, high = grid.box(grid.low, grid.high)
            here = replace(
                spec, lower=torch.from_numpy(low)[None], upper=torch.from_numpy(high)[None], x=None, x_error=None,
                cut=torch.zeros((1, 0, layer.size), dtype=torch.float64), cases=(_at_layer(case, low, high),),
            )  # fmt: skip
            task, judge = prepare(Program.prepare(layer.tail, torch.float64), here)
            limits = Limits(self.settings.expired, keep=self._watching(layer, space))
            search = Search(task, judge, space, confirm, limits)
            found = search.run()
            total = found.counts
            if found.witness is not None or not found.proved:
                return found
        assert found is not None
        return replace(found, counts=total)

    def _watching(self, layer: Layer, space: Points | Cells) -> Callable[[Counts, Boxes], None]:
        """Notes how much of a layer's points, or cells, is covered, after every batch."""
        what = f"{'cells' if isinstance(space, Cells) else 'points'} at layer {layer.number}"

        def note(counts: Counts, _: Boxes) -> None:
            share = counts.covered / max(1, counts.total)
            self.history.append((time.monotonic() - self.began, what, share))
            self.settings.tell(f"covered so far: {100 * share:.3g} % of the {what}")

        return note

    # -- the continuum ----------------------------------------------------------------------------

    def _cells(self, found: Searched, first: Layer, grid: Grid, case: Case) -> Searched:
        """The cells of this layer that hold all that η_0 leads to, proved with every other dimension free."""
        region, graph = found.region, self.question.problem.graph
        bounds = image(graph, first, region.layer, *grid.box(grid.low, grid.high))
        if region.layer.number == 0:
            whole, space = grid, Cells.of(grid)
        else:
            label = self.question.label
            assert label is not None
            whole = region_at(
                region.layer, region.centre, bounds, len(region.dims), self.settings.number, label, self.settings.by
            ).grid
            space = _Around(whole, Cells.of(whole).bits, bounds[0], bounds[1])
        confirm = self.question.problem.confirm if region.layer.number == 0 else _nothing
        ended = self._ended(region.layer, whole, case, confirm, space)
        cells = ended.counts.covered // space.parts, ended.counts.total // space.parts
        if ended.witness is not None:
            return replace(found, witness=ended.witness, point=ended.point, cells=cells)
        return replace(found, continuous=ended.proved, cells=cells)

    # -- reports ----------------------------------------------------------------------------------

    def _report(self, done: Sequence[Searched], wanted: int, grid: Grid) -> Report:
        settings, question = self.settings, self.question
        ahead = next((found for found in done if found.witness is not None), None)
        kind, reason = Kind.UNKNOWN, ""
        if ahead is not None:
            kind = Kind.UNSAFE
        elif any(found.continuous for found in done):
            kind = Kind.SAFE_CONTINUOUS
        elif len(done) == wanted and all(found.safe for found in done):
            kind = Kind.SAFE_FOR_MANIPULATIONS
        else:
            reason = next((found.reason for found in done if found.reason), "") or "not every layer was searched"
        continuous = kind is Kind.SAFE_CONTINUOUS
        assumptions = question.assumptions if continuous or ahead is not None else self._assumptions(done)
        covers = tuple(
            Cover(f"points at layer {found.region.layer.number}", found.covered, found.total) for found in done
        )
        replayed = "" if ahead is None else (
            f"an input of the region, found at layer {ahead.region.layer.number}"
            f"{' and mapped back' if ahead.region.layer.number else ''}"
            ", as float32, in ONNX Runtime on the original model"
        )  # fmt: skip
        where = f"every real input between the ends of the {describe(grid)}" if continuous else describe(grid)
        extra = {
            "manipulations": f"{settings.number} spans to the end of each chosen dimension, chosen by {settings.by}, "
            f"paths {settings.paths}",
            **{f"layer {found.region.layer.number}": found.line() for found in done},
        }
        history = self.history[:: max(1, len(self.history) // 500)]
        return Report(
            kind, question.text, where,
            question.problem.prop.n, question.moved, covers, assumptions,
            None if ahead is None else ahead.point, None if ahead is None else ahead.witness, replayed, reason,
            question.problem.warnings, {"seconds": time.monotonic() - self.began, "history": history},
            {**extra, "layers": [_record(found) for found in done]},
        )  # fmt: skip

    def _assumptions(self, done: Sequence[Searched]) -> tuple[str, ...]:
        made = list(self.question.assumptions)
        for found in done:
            region = found.region
            moving = int(moves(region.lower, region.upper).sum())
            if len(region.dims) < moving:
                some = f"{len(region.dims)} of {moving} moving dimensions"
                made.append(f"at layer {region.layer.number} only {some} are manipulated")
        if self.settings.paths != "all":
            made.append(
                f"features of {self.settings.size} dimensions are independent (searched {self.settings.paths}-path)"
            )
        if done:
            made.append("between the points of the grids nothing is claimed")
        return tuple(made)


@dataclass(frozen=True, eq=False)
class _Around(Cells):
    """Cells in the chosen dimensions, with all others anywhere between ``rest_lower`` and ``rest_upper``."""

    rest_lower: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rest_upper: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def real(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = super().real(low, high)
        fixed = np.setdiff1d(np.arange(self.grid.n), self.free)
        lower[:, fixed], upper[:, fixed] = self.rest_lower[fixed], self.rest_upper[fixed]
        return lower, upper


def _nothing(x: np.ndarray) -> Witness | None:
    """Activations in a cell of which nothing is claimed are not mapped back."""
    return None


def _at_layer(case: Case, lower: np.ndarray, upper: np.ndarray) -> Case:
    """The case's outputs with a box of a layer in place of the inputs'."""
    ends = lower.astype(np.float32), upper.astype(np.float32)
    return replace(case, lower=lower, upper=upper, witness_lower=ends[0], witness_upper=ends[1])


def _only(grid: Grid, dims: Sequence[int], base: np.ndarray) -> Grid:
    """The grid with only some dimensions free, the others at ``base``."""
    keep = np.isin(np.arange(grid.n), dims)
    low, high = np.where(keep, grid.low, base), np.where(keep, grid.high, base)
    return replace(grid, low=low, high=high, base=grid.base + np.where(keep, 0, base - grid.low))


def _record(found: Searched) -> dict[str, object]:
    region = found.region
    return {
        "layer": region.layer.number,
        "value": region.layer.value,
        "dimensions": list(region.dims),
        "spans": [str(float(region.grid.step[p])) for p in region.dims],
        "points": found.covered,
        "of": found.total,
        "changed": found.changed,
        "out of reach": found.unreached,
        "activation": None if found.activation is None else found.activation,
        "refinement": None if found.refined is None else vars(found.refined),
    }

"""Verification over a family of manipulations: θ in a box, or on a grid, through g(θ; x) and the network behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx

from verinn.attack.replay import Original
from verinn.errors import InputError
from verinn.io.onnx_reader import load_model, read_graph
from verinn.ir.graph import Shape
from verinn.ir.query import And, Bounds, Network, Query, Variable
from verinn.ir.query import Kind as Role
from verinn.options import Options
from verinn.region.decide import Settings, decide
from verinn.region.direct import manipulated
from verinn.region.grid import make_grid
from verinn.region.manipulations import Family
from verinn.region.prefix import composed
from verinn.region.question import Question, Scale, Source, arranged, decimals, rivals
from verinn.region.spaces import Cells
from verinn.region.state import fingerprint
from verinn.region.verdict import Cover, Kind, Report
from verinn.result import Verdict, Witness
from verinn.search.problem import build
from verinn.search.run import solve


@dataclass(frozen=True, eq=False)
class Composition:
    """The original model, the image's pixels (C, H, W), and the model with the family in front of it."""

    source: Source
    family: Family
    pixels: np.ndarray
    model: onnx.ModelProto
    shape: Shape
    mean: np.ndarray
    std: np.ndarray
    label: int
    ties: str

    def image(self, theta: np.ndarray) -> np.ndarray:
        """g(θ; x) as pixels (C, H, W), in float64."""
        return manipulated(self.family, self.pixels, theta.astype(np.float64).ravel().tolist())

    def fed(self, theta: np.ndarray) -> np.ndarray:
        """The model's input at θ as float32 (n,)."""
        scaled = (self.image(theta).ravel() - self.mean) / self.std
        return np.asarray(scaled.astype(np.float32))


def compose(
    source: Source, image: np.ndarray, family: Family, scale: Scale, label: int | None, ties: str
) -> Composition:
    """The composed model of an image (pixels 0 to 1). Raises InputError, Unsupported."""
    loaded = load_model(source)
    graph = read_graph(loaded)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError("manipulations need a model with one input and one output", file=loaded.file)
    shape = graph.inputs[0].shape
    pixels = _planes(image, shape, loaded.file)
    if pixels.min() < 0 or pixels.max() > 1:
        raise InputError("has pixels outside of 0 to 1", place="--image", hint="divide by the largest value")
    _, mean, std = scale.spread(shape)
    centre, spread = np.array([float(v) for v in mean]), np.array([float(v) for v in std])
    if (spread <= 0).any():
        raise InputError("standard deviations have to be above zero", place="--std")
    count = int(np.prod(graph.shapes()[graph.outputs[0].value], dtype=np.int64))
    if label is None:
        fed = ((pixels.ravel() - centre) / spread).astype(np.float32)
        label = int(np.argmax(next(iter(Original(loaded).run({graph.inputs[0].name: fed}).values()))))
    if not 0 <= label < count:
        raise InputError(f"the model has {count} classes, the label is {label}", place="--label")
    model = composed(loaded, family, pixels, centre, spread)
    return Composition(source, family, pixels, model, shape, centre, spread, label, ties)


def _planes(image: np.ndarray, shape: Shape, file: str) -> np.ndarray:
    """Pixels as (C, H, W) in the order of the model's input; a flat input of a square image is one plane."""
    inner = tuple(shape[1:] if len(shape) == 4 else shape)
    if image.size != int(np.prod(shape, dtype=np.int64)):
        raise InputError(f"the image has {image.size} numbers, the model takes {list(shape)}", file=file)
    if len(shape) == 4 or (len(shape) == 3 and shape[0] in (1, 3)):
        return arranged(image, shape).reshape(inner)
    side = image.shape[-2:] if image.ndim >= 2 else (round(image.size**0.5),) * 2
    if side[0] * side[1] != image.size:
        raise InputError(f"an input of the shape {list(shape)} is no image", file=file)
    return image.reshape(1, *side)


def question_of(composition: Composition, seed: int = 0) -> Question:
    """The question over θ: its box, and its grid where the family has steps."""
    family = composition.family
    steps = [span.step or (span.high - span.low) for span in family.spans]
    last = [int((span.high - span.low) / step) for span, step in zip(family.spans, steps, strict=True)]
    grid = make_grid([span.low for span in family.spans], steps, [0] * len(last), last)
    graph = read_graph(load_model(composition.model))
    out, count = graph.shapes()[graph.outputs[0].value], len(family.spans)
    x = Variable("theta", Role.INPUT, "float32", (1, count), 0)
    y = Variable("Y", Role.OUTPUT, "float32", out, count)
    ends = np.array([[_inner(span.low, 1), _inner(span.high, -1)] for span in family.spans]).T.ravel()
    bounds = Bounds(np.tile(np.arange(count), 2), np.repeat([False, True], count), ends, decimals(ends))
    rows = rivals(count, int(np.prod(out, dtype=np.int64)), composition.label, composition.ties)
    problem = build(composition.model, Query("2.0", (Network("N", (x, y)),), And((bounds, rows))), seed)
    text = f"class {composition.label} under {family}"
    return Question(problem, ((problem.prop.cases[0], grid),), (1, count), text, Scale(), None, composition.label)


def _inner(value: Fraction, side: int) -> float:
    """The float32 nearest to an end of a range."""
    return float(np.float32(float(value)))


@dataclass(eq=False)
class Replay:
    """θ replayed on the original model: the image in float64, its input as float32 in ONNX Runtime."""

    composition: Composition
    original: Original = field(init=False)

    def __post_init__(self) -> None:
        self.original = Original(load_model(self.composition.source))

    def __call__(self, theta: np.ndarray) -> Witness | None:
        composition = self.composition
        x = composition.fed(theta).reshape(composition.shape)
        (y,) = list(self.original.run({next(iter(self.original.inputs)): x}).values())[:1]
        if not loses(y.ravel(), composition.label, composition.ties):
            return None
        return Witness({"theta": theta.astype(np.float32).ravel(), "X": x, "Y": y})


def loses(y: np.ndarray, label: int, ties: str) -> bool:
    """Whether another class wins, as the question reads ties."""
    if not np.isfinite(y).all():
        return False
    others = np.delete(y, label)
    if ties == "first":
        return int(y.argmax()) != label
    return bool((others > y[label]).any() if ties == "allow" else (others >= y[label]).any())


def check_prefix(composition: Composition, samples: int = 12) -> float:
    """How far the prefix graph in ONNX Runtime is from the direct computation, at most, over random θ and corners.

    RuntimeError where that is beyond float32's rounding: a defect of ours, and no verdict may be given.
    """
    target = next(iter(Original(load_model(composition.source)).inputs))
    original = Original(load_model(composition.model), hidden=[target])
    rng = np.random.default_rng(0)
    low, high = (np.array([float(getattr(span, end)) for span in composition.family.spans]) for end in ("low", "high"))
    worst = 0.0
    for number in range(samples):
        share = rng.random(len(low)) if number % 2 else rng.integers(0, 2, len(low))
        theta = (low + share * (high - low)).astype(np.float32)
        made = original.run({next(iter(original.inputs)): theta})[target].ravel() * composition.std + composition.mean
        worst = max(worst, float(np.abs(made - composition.image(theta).ravel()).max()))
    if worst > 2e-3:
        raise RuntimeError(f"the prefix graph is off by {worst:.2g} from the direct computation")
    return worst


def verify_family(
    composition: Composition,
    options: Options,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] | None = None,
    state: str | Path | None = None,
) -> Report:
    """Every real θ of the box, or every θ of its grid: safe for these manipulations, or a θ replayed.

    ``tell``: a line of progress now and then. ``state``: a file to go on from and to keep the search in.
    """
    began = time.monotonic()
    away = check_prefix(composition)
    question = question_of(composition, options.seed)
    replay, family = Replay(composition), composition.family
    grid = question.grids[0][1]
    mark = ""
    if state is not None:
        mark = fingerprint(composition.model, [grid], question.text, composition.ties)
    report = _searched(question, family, Settings(options, stop=stop, tell=tell, state=state, mark=mark))
    theta, reason, safe = report.point, report.reason, report.kind in (Kind.SAFE_ON_GRID, Kind.SAFE_CONTINUOUS)
    covers = tuple(
        replace(cover, what=cover.what.replace("grid points", "points of θ's grid")) for cover in report.covers
    )
    region, claimed = "every real θ of the box", ""
    if family.gridded:
        region = f"θ on a grid of {grid.points} points"
        claimed = "between the points of θ's grid nothing is claimed"
    witness = None if theta is None else replay(theta)
    replayed = ""
    if witness is not None:
        replayed = "θ's image, made in float64 and fed as float32, in ONNX Runtime on the original model"
    elif theta is not None:
        reason = "a θ violates in the composed model; its image, made in float64, does not in the original"
    kind = Kind.UNSAFE if witness is not None else Kind.SAFE_FOR_MANIPULATIONS if safe else Kind.UNKNOWN
    meaning = (
        f"the image is g(θ; x) with float32 coefficients (within {away:.1g} of the exact manipulation where tried)"
    )
    assumed = tuple(text for text in (meaning, claimed) if text) if kind is Kind.SAFE_FOR_MANIPULATIONS else ()
    return Report(
        kind, question.text, region, len(family.spans), len(family.spans), covers, assumed,
        None if witness is None else theta, witness, replayed, reason if kind is Kind.UNKNOWN else "",
        question.problem.warnings,
        {"seconds": time.monotonic() - began, "history": report.statistics.get("history", [])},
        {"theta": [span.name for span in family.spans]},
    )  # fmt: skip


def _searched(question: Question, family: Family, settings: Settings) -> Report:
    """Boxes of θ halved until bounds prove them; what half of the time leaves open is asked of the ordinary search,
    which also splits phases of ReLUs."""
    if family.gridded:
        return decide(question, settings)
    options, now = settings.options, time.monotonic()
    until = now + 0.5 * (options.deadline - now if options.deadline is not None else 3600.0)
    half = replace(settings, options=replace(options, deadline=until), cells=True, engine=False)
    report = decide(question, half)
    space = Cells.of(question.grids[0][1])
    done, total = int(report.statistics["units covered"]), space.count(*space.root)
    report = replace(report, covers=(Cover("parts of θ's box", done, total),))
    if report.kind is not Kind.UNKNOWN or settings.stop():
        return report
    result = solve(question.problem, options)
    if result.verdict is Verdict.UNSAT:
        return replace(report, kind=Kind.SAFE_CONTINUOUS, covers=(Cover("parts of θ's box", total, total),))
    if result.witness is not None:
        return replace(report, kind=Kind.UNSAFE, point=result.witness.values["theta"])
    return replace(report, reason=result.reason or report.reason)


def save_model(composition: Composition, path: str | Path) -> None:
    """The composed model as an ONNX file. InputError where it can't be written."""
    try:
        Path(path).write_bytes(composition.model.SerializeToString())
    except OSError as error:
        raise InputError(f"can't be written ({error.strerror})", file=str(path)) from None

"""The pictures of the suite's README: ``python -m verinn.audit.pictures SUITE`` writes SUITE/pictures/*.png.

All are drawn from what the suite itself holds: its models evaluated in ONNX Runtime, its truth, a report of verinn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from verinn.audit.instance import Instance, Suite, load_suite

SIZE, DOTS = (5.2, 3.2), 90
REPORT = "reports/verinn.json"


def witness(suite: Suite, instance: Instance) -> np.ndarray:
    """The recorded point of the only input (n,)."""
    (values,) = suite.truths[instance.id].witness.values()
    return np.array([float.fromhex(value) for value in values])


def runner(suite: Suite, instance: Instance) -> Callable[[np.ndarray], np.ndarray]:
    """Points (P, n) to outputs (P, m)."""
    session = ort.InferenceSession(str(suite.folder / instance.onnx), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]

    def run(points: np.ndarray) -> np.ndarray:
        values = [session.run(None, {source.name: x.reshape(source.shape).astype(np.float32)})[0] for x in points]
        return np.asarray(values).reshape(len(points), -1)

    return run


def _pick(suite: Suite, family: str, **wanted: Any) -> Instance:
    """The first instance with a counterexample that has these properties."""
    for instance in suite.instances:
        fits = all(getattr(instance, name) == value for name, value in wanted.items())
        if fits and instance.family == family and suite.truths[instance.id].label == "sat":
            return instance
    raise ValueError(f"no instance of {family} with {wanted}")


def planted(suite: Suite, axes: Any) -> str:
    """A planted network over a plane through the secret point."""
    instance = _pick(suite, "planted", radius=0.125, outputs=1, shape="box", inputs=5)
    centre, run = witness(suite, instance), runner(suite, instance)
    line = np.linspace(-1, 1, 161)
    points = np.repeat(centre[None], len(line) ** 2, 0)
    points[:, 0], points[:, 1] = (part.reshape(-1) for part in np.meshgrid(line, line))
    values = run(points)[:, 0].reshape(len(line), -1)
    image = axes.imshow(values, extent=(-1, 1, -1, 1), origin="lower", cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label="output")
    axes.plot(centre[0], centre[1], "o", mfc="none", mec="red", ms=14)
    axes.set(xlabel="first input", ylabel="second input", title="planted: a spike where no gradient leads")
    return "planted.png"


def trained(suite: Suite, axes: Any) -> str:
    """A trained network's margin on lines through its counterexample."""
    hidden = [item for item in suite.instances if item.family == "trained" and suite.truths[item.id].hidden]
    instance = hidden[0] if hidden else _pick(suite, "trained")
    centre, run = witness(suite, instance), runner(suite, instance)
    reach = np.concatenate([-np.logspace(-1, -6, 120), [0.0], np.logspace(-6, -1, 120)])
    rng = np.random.default_rng(0)
    for _ in range(6):
        direction = rng.uniform(-1, 1, len(centre))
        y = run(centre + reach[:, None] * direction)
        at = run(centre[None])[0]
        wrong = int(at.argmax())
        axes.plot(reach, y[:, wrong] - y[:, 1 - wrong], lw=1)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xscale("symlog", linthresh=1e-6)
    axes.set_yscale("symlog", linthresh=0.02)
    axes.set(xlabel="distance from the counterexample", ylabel="margin (≥ 0: misclassified)")
    axes.set_title("trained: six lines through a hidden counterexample", fontsize=10)
    return "trained.png"


def shares(suite: Suite, axes: Any) -> str:
    """What verinn decided, by the radius of the spike."""
    groups = json.loads((suite.folder / REPORT).read_text(encoding="utf-8"))["shares"]["radius"]
    groups = [group for group in groups if group["group"].startswith("2^")]
    names = [group["group"].replace("2^", "") for group in groups]
    solved = np.array([group.get("solved", 0) for group in groups])
    total = np.array([sum(v for key, v in group.items() if key != "group") for group in groups])
    axes.bar(names, total, color="lightgray", label="instances")
    axes.bar(names, solved, color="seagreen", label="decided, rightly")
    axes.set(xlabel="log₂ of the spike's radius (of half the box)", ylabel="instances", title="verinn, 60 s each")
    axes.legend()
    return "shares.png"


def kinks(suite: Suite, axes: Any) -> str:
    """y of a kink's instance around its secret point, at three scales."""
    instance = _pick(suite, "kinks", inputs=3, shape="tie")
    centre, run = witness(suite, instance), runner(suite, instance)
    for index in range(3):
        points = np.repeat(centre[None], 401, 0)
        points[:, index] = np.linspace(-1, 1, 401)
        points = np.concatenate([points, centre[None] + np.linspace(-0.05, 0.05, 401)[:, None] * np.eye(3)[index]])
        points = points[points[:, index].argsort()]
        axes.plot(points[:, index], run(points)[:, 0], lw=1, label=f"input {index}")
    axes.set(xlabel="input", ylabel="output", title=f"kinks: a bump made by {instance.operators[0]}, and the threshold")
    axes.axhline(run(centre[None])[0, 0], color="red", lw=0.6)
    axes.legend()
    return "kinks.png"


def main(arguments: Sequence[str]) -> None:
    """Draw all into the suite's folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    suite = load_suite(arguments[0])
    folder = Path(arguments[0]) / "pictures"
    folder.mkdir(exist_ok=True)
    told = (suite.folder / REPORT).exists()
    for draw in (planted, trained, kinks, *((shares,) if told else ())):
        figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
        name = draw(suite, axes)
        figure.savefig(folder / name, dpi=DOTS, metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])

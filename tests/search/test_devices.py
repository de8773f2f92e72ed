"""Tensors are made where those are that they meet: the searches run, and agree, on a GPU that is only told of."""

from __future__ import annotations

import ast
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from elsewhere import CUDA, Elsewhere, away
from search_brute import SHAPES, bounds, model, random_asserts, random_layers, row, write

import verinn
from benchmarks.performance.networks import Builder
from verinn.api import verify
from verinn.ops.program import Program
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import plan, store, task
from verinn.search import run as running
from verinn.search.neurons import PhaseTask
from verinn.search.task import Task

ROOT = Path(verinn.__file__).parent
FACTORIES = {
    "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros",
}  # fmt: skip
#: what works on the CPU, whatever the device of a run: replays, rationals, what is read, the draws of the attack
ON_THE_CPU = {"attack/pgd.py", "attack/replay.py", "passes/replay.py", "passes/scatter.py"}
ON_THE_CPU |= {"exact/rational.py", "search/spec.py", "search/smt.py", "search/milp.py", "attack/equalities.py"}
#: what computes on the CPU only: training of audited networks, exact meanings, regions, bounds for Python
CPU_ROOMS = ("audit/", "exact/encoding/", "exact/smt/", "region/", "bounds/node.py", "bounds/substitution.py")


def without_device(path: Path) -> list[str]:
    """Calls of factory functions of torch that name no device."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, told = node.func.value, any(keyword.arg in ("device", None) for keyword in node.keywords)
        if isinstance(owner, ast.Name) and owner.id == "torch" and node.func.attr in FACTORIES and not told:
            found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_every_tensor_is_made_on_a_device_that_is_named() -> None:
    names = {path: path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}
    paths = [path for path, name in names.items() if name not in ON_THE_CPU and not name.startswith(CPU_ROOMS)]
    assert [call for path in paths for call in without_device(path)] == []


def test_a_factory_without_device_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import torch\na = torch.zeros(3)\nb = torch.zeros(3, device=a.device)\nc = a.new_zeros(3)\n")
    assert without_device(path) == ["x.py:2: torch.zeros(3)"]


def test_the_told_gpu_refuses_what_cuda_does() -> None:
    host = torch.ones(3)
    with Elsewhere():
        there = torch.zeros(3, device=CUDA)
        made = (there, there.new_ones(2), there[None].mT, there + 1, host.to(there))
        assert {x.device.type for x in made} == {"cuda"}
        assert {x.device.type for x in (host, there.cpu(), torch.arange(3))} == {"cpu"}
        assert away(there.reshape(1, 3).max(1).values) and there.is_cuda and not host.is_cuda
        for wrong in (lambda: there + host, lambda: torch.cat([there, host]), lambda: there[torch.tensor([0])]):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(TypeError):
            there.numpy()
    assert not away(host)


class Device:
    """Runs of one property, on the CPU or on the device that isn't there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path):
        self.patch, self.file, self.made = monkeypatch, path / "p.vnnlib", running.plan_of
        self.seen: set[str] = set()
        monkeypatch.setattr(plan, "_device", str)
        monkeypatch.setattr(running, "_device_room", lambda device: math.inf)
        for kind in (Task, PhaseTask):
            monkeypatch.setattr(kind, "explore", self._watched(kind.explore))

    def decide(self, network: onnx.ModelProto, device: str, attack: bool, **fields: Any) -> Result:
        fields = {"helper": False, "batch": 4, "dtype": "float32", **fields}

        def fixed(facts: plan.Facts, options: Options) -> plan.Plan:
            return replace(self.made(facts, options), **fields)

        self.patch.setattr(running, "plan_of", fixed)
        self.seen.clear()
        options = Options(attack=attack, deadline=time.monotonic() + 20.0, device=device, threads=1)
        return verify(network, self.file, options)

    def agree(self, network: onnx.ModelProto, attack: bool = False, **fields: Any) -> Result:
        """The same verdict, after as many domains, on both."""
        expected = self.decide(network, "cpu", attack, **fields)
        with Elsewhere():
            found = self.decide(network, "cuda", attack, **fields)
        assert found.verdict is expected.verdict, found.reason
        assert found.statistics["domains"] == expected.statistics["domains"]
        assert self.seen <= {"cuda"}
        return found

    def _watched(self, real: Any) -> Any:
        def watched(task: Any, domains: Any) -> Any:
            explored = real(task, domains)
            self.seen |= {x.device.type for x in (domains.share, explored.points, explored.cases)}
            return explored

        return watched


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return Device(monkeypatch, tmp_path)


@pytest.mark.parametrize("engine", ["boxes", "phases"])
@pytest.mark.parametrize("shape", SHAPES)
def test_properties_of_every_shape(shape: str, engine: str, device: Device) -> None:
    for seed in (0, 3):
        rng = np.random.default_rng([seed, SHAPES.index(shape), 5])
        layers = random_layers(rng, (2, 6, 5, 2))
        write(device.file, 2, 2, random_asserts(rng, shape, layers, False))
        device.agree(model(layers), attack=bool(seed), engine=engine)


@pytest.mark.parametrize("engine", ["boxes", "phases"])
def test_more_is_found_out_on_the_way(engine: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contraction in every domain of the boxes; intervals tightened again and again for the phases."""
    monkeypatch.setattr(task, "pays", lambda contractor, spec: engine == "boxes")
    monkeypatch.setattr(PhaseTask, "due", property(lambda task: 0.0 if task.renewals < 3 else 1e9))
    for seed in range(2):
        rng = np.random.default_rng([seed, 9])
        layers = random_layers(rng, (3, 8, 6, 2))
        write(device.file, 3, 2, random_asserts(rng, "conjunction", layers, False))
        device.agree(model(layers), engine=engine)


NETS = {
    "conv": lambda: Builder(1, 6, 6).conv(2, 3, 1, 1).relu().conv(2, 3, 2).relu().dense(2),
    "residual": lambda: Builder(1, 6, 6).conv(2, 3, 1, 1).relu().residual(2).relu().dense(2),
    "pool": lambda: (
        Builder(1, 4, 4).conv(2, 3, 1, 1).apply("LeakyRelu", alpha=0.1).max_pool(2).dense(4).relu().dense(2)
    ),
    "smooth": lambda: Builder(4).dense(4).apply("Sigmoid").dense(4).apply("Tanh").dense(4).relu().dense(2),
    "clip": lambda: Builder(4).dense(6).apply("Relu").dense(4).apply("Abs").dense(2),
}


def lowest(net: str, side: float) -> float:
    """About the least first output where every input lies within ``side`` of zero, in 64ths, rounded down."""
    made = NETS[net]()
    x = np.random.default_rng(2).uniform(-side, side, (200, made.inputs))
    low = Program.prepare(made.graph(), torch.float64).flat(torch.from_numpy(x))[:, 0].min()
    return float(np.floor(float(low) * 64) / 64)


@pytest.mark.parametrize("engine", ["boxes", "phases"])
@pytest.mark.parametrize("net", NETS)
def test_networks_of_every_kind(net: str, engine: str, device: Device) -> None:
    made, network = NETS[net](), NETS[net]().model()
    n = made.inputs
    side = 1 / 16 if net == "pool" else 1 / 4
    level = lowest(net, side) - (1 if net == "pool" else 1 / 16)
    write(device.file, n, 2, [*bounds([-side] * n, [side] * n), row("<=", level, (1, "Y_0"))])
    assert device.agree(network, engine=engine, batch=32).statistics["domains"] < 2000


@pytest.mark.parametrize("engine", ["boxes", "phases"])
def test_domains_wait_in_the_hosts_memory_where_the_gpu_is_short(
    engine: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and what is worked on is always on the GPU; renewals pick from both memories."""
    moves: list[str] = []

    def counted(batch: Any, there: torch.device) -> Any:
        moves.append(there.type)
        return real(batch, there)

    real = store.moved
    monkeypatch.setattr(store, "moved", counted)
    monkeypatch.setattr(running, "_device_room", lambda device: 1.0)
    monkeypatch.setattr(PhaseTask, "due", property(lambda task: 8.0 if task.renewals < 2 else 1e9))
    network = NETS["clip"]().model()
    for level in (lowest("clip", 1 / 4) - step / 8 for step in range(1, 17)):
        write(device.file, 4, 2, [*bounds([-1 / 4] * 4, [1 / 4] * 4), row("<=", level, (1, "Y_0"))])
        if device.agree(network, engine=engine, batch=2).verdict is Verdict.UNSAT:
            break
    assert {"cpu", "cuda"} <= set(moves)

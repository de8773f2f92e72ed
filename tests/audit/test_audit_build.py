"""The generators: rewrites change nothing, truths hold by brute force, suites rebuild bit for bit."""

import hashlib
import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from verinn.audit import (
    attacks,
    images,
    kinks,
    layers,
    metamorphic,
    numeric,
    operators,
    planted,
    provable,
    semantics,
    shapes,
    suite,
    trained,
    values,
)
from verinn.audit import enclosure as en
from verinn.audit.case import Case, digest, exact_outputs, finished, runtime_outputs
from verinn.audit.hidden import attacked, hull
from verinn.audit.instance import load_suite
from verinn.audit.layers import Net
from verinn.audit.operator_rare import RARE
from verinn.audit.operator_table import TABLE
from verinn.audit.planted import Plan, random_net
from verinn.audit.query import decimal, holds, text
from verinn.audit.recipes import cases
from verinn.audit.sketch import packed
from verinn.audit.suite import write_suite
from verinn.audit.templates import TEMPLATES
from verinn.face.supports import ONNX_OPERATORS
from verinn.io.vnnlib import read_query

COMMITTED = Path(__file__).resolve().parents[2] / "soundness"
HALF = Fraction(1, 2)


def same(one: Net, two: Net, rng: np.random.Generator) -> bool:
    inputs = one[0].weight.shape[1]
    points = [rng.integers(-64, 65, inputs) / 64.0 for _ in range(5)]
    return all(bool(np.all(layers.evaluate(one, x) == layers.evaluate(two, x))) for x in points)


@pytest.mark.parametrize("move", [layers.permute, layers.rescale, layers.double, layers.split, layers.pass_through])
def test_each_rewrite_keeps_the_function(move: object) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        net = random_net(rng, 3, 5, 2, 2)
        for at in range(len(net) - 1):
            assert same(net, move(net, at, rng), rng)  # type: ignore[operator]


def test_disguises_keep_the_function_and_are_drawn_as_they_are() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net = random_net(rng, 3, 5, 2, 2)
        other = layers.disguise(net, rng, 6)
        assert same(net, other, rng)
        sketch = layers.Sketch()
        x = sketch.input([1, 3])
        sketch.output(layers.draw(other, sketch, x, ("gemm", "matmul", "plain")[seed % 3]), [1, 2])
        point = (rng.integers(-8, 9, 3) / 8.0).astype(np.float32)
        drawn = exact_outputs(sketch.model(), {"x": point})["y"].lo
        assert bool(np.all(drawn.reshape(-1) == layers.evaluate(net, point)))


def grid(plan: Plan, around: np.ndarray) -> list[np.ndarray]:
    """A grid over the box, and a fine one around a point."""
    coarse = [Fraction(k, 8) * plan.scale for k in range(-8, 9)]
    fine = [plan.radius * plan.scale * Fraction(k, 4) for k in range(-5, 6)]
    points = [np.array(item, dtype=object) for item in itertools.product(coarse, repeat=plan.inputs)]
    return points + [around + np.array(item, dtype=object) for item in itertools.product(fine, repeat=plan.inputs)]


@pytest.mark.parametrize(("host", "classes"), [("cap", 0), ("cap", 3), ("roof", 0)])
def test_the_greatest_value_of_planted_networks_by_brute_force(host: str, classes: int) -> None:
    plan = Plan(2, Fraction(1, 8), host=host, classes=classes, decoys=1, width=4, rounds=0)
    made = planted.plant(plan, np.random.default_rng(5), Fraction(2))

    def value(x: np.ndarray) -> Fraction:
        y = layers.evaluate(made.net, x)
        return Fraction(max(y[1:]) - y[0] if classes else y[0])

    assert value(made.secret) == made.top
    assert all(value(x) <= made.top for x in grid(plan, made.secret))


@pytest.mark.parametrize("kind", provable.KINDS)
def test_provable_extremes_by_brute_force(kind: str) -> None:
    for seed in range(2):
        made = provable.case(kind, 2, 1, False, [seed])
        finished(made, "a", 0)
        axis = np.linspace(-1, 1, 9)
        for x in itertools.product(axis, axis):
            point = {"X": en.of(np.float32(x))}
            outputs = exact_outputs(made.models["f"], {"x": np.float32(x)})
            assert holds(made.query, {**point, "Y": outputs["y"]}) is False


def test_every_shape_is_true_by_samples_and_read_by_verinn_as_it_is_meant(tmp_path: Path) -> None:
    for index, shape in enumerate(shapes.MAKERS):
        made = shapes.case(shape, False, [7, index])
        finished(made, "a", 0)  # the point is no witness
        file = tmp_path / f"{index}.vnnlib"
        file.write_text(text(made.query))
        query = read_query(file)
        assert sum(v.size for n in query.networks for v in n.variables) == sum(t.size for t in made.query.tensors)
        assert finished(shapes.case(shape, True, [7, index]), "b", 0)[1].agree


def test_every_claimed_operator_has_an_instance() -> None:
    assert set(ONNX_OPERATORS) <= {*TABLE, *RARE}


@pytest.mark.parametrize("name", [*sorted(TABLE)[::7], *sorted(RARE)[::4], *TEMPLATES])
def test_operators_stay_below_their_twin_s_threshold(name: str) -> None:
    made = operators.case(name, [4], False)
    finished(made, "a", 0)
    lower, upper = hull(made.query)
    rng = np.random.default_rng(0)
    for _ in range(12):
        place = rng.random(len(lower))
        place = np.where(rng.random(len(lower)) < 0.4, place.round(), place)
        x = (lower.numpy() + place * (upper - lower).numpy()).astype(np.float32)
        y = runtime_outputs(made.models["f"], {"x": x})["y"]
        assert holds(made.query, {"X": en.of(x), "Y": y}) is False


def safe(made: Case, many: int = 24) -> bool:
    """Whether ONNX Runtime violates a twin's property at none of many points, at the corners and near the point."""
    lower, upper = (side.numpy() for side in hull(made.query))
    rng = np.random.default_rng(0)
    assert made.point is not None
    for index in range(many):
        place = rng.random(len(lower))
        x = lower + (place.round() if index % 3 == 0 else place) * (upper - lower)
        if index % 3 == 1:
            x = np.clip(made.point["X"] + (place - 0.5) * 2.0 ** -rng.integers(3, 20), lower, upper)
        y = runtime_outputs(made.models["f"], {"x": x.astype(np.float32)})["y"]
        if holds(made.query, {"X": en.of(x.astype(np.float32)), "Y": y}) is not False:
            return False
    return True


@pytest.mark.parametrize("name", list(kinks.KINKS)[::4])
def test_nothing_exceeds_a_kink_s_tip_beside_the_slope_s_end(name: str) -> None:
    """The tie is one in exact arithmetic and in float32; the twin is safe."""
    truth = finished(kinks.case(name, [5, 1], True), "a", 0)[1]
    assert truth.agree and truth.signed_margin == "0"
    twin = kinks.case(name, [5, 1], False)
    finished(twin, "b", 0)
    assert safe(twin)


@pytest.mark.parametrize("host", images.HOSTS)
def test_spikes_in_convolutional_networks_are_at_their_point_only(host: str) -> None:
    for sat in (True, False):
        made = images.case(images.Image(host, 3, Fraction(1, 16), sat), [6, 2], "a")
        assert finished(made, "a", 0)[1].agree
    assert safe(made)


@pytest.mark.parametrize("name", list(values.entries())[::9])
def test_values_are_those_of_onnx_runtime(name: str) -> None:
    assert finished(values.case(name, [7, 3]), "a", 0)[1].agree


def test_rows_that_touch_have_one_point_only() -> None:
    for seed in range(4):
        made = numeric.touching(np.random.default_rng(seed), True, "a")
        assert finished(made, "a", 0)[1].agree
        assert made.point is not None
        moved = made.point["x"] + np.float32(2.0**-10) * np.array([1, -1], np.float32)
        y = runtime_outputs(made.models["f"], {"x": moved})["y"]
        assert holds(made.query, {"x": en.of(moved), "y": y}) is False


def test_recorded_attacks_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is believed, by the models and the property alone; what is not is attacked, and recorded."""
    one, two = (planted.planted(Plan(2, Fraction(1, 256), rounds=1), [seed], "a") for seed in (1, 2))
    monkeypatch.setattr(suite, "cases", lambda seed: ([replace(one, quick=True), replace(two, quick=True)], []))
    (tmp_path / "recorded").mkdir()
    told = [{"kind": "pgd", "found": 7, "best": 1.0}]
    (tmp_path / "recorded" / suite.ATTACKS).write_text(json.dumps({digest(one): told}))
    fresh = ({"kind": "pgd", "found": 0, "best": -1.0},)
    monkeypatch.setattr("verinn.audit.hidden.attacked", lambda case, seed: fresh)
    write_suite(1, tmp_path / "out", "quick", tmp_path / "recorded")
    truths = sorted(load_suite(tmp_path / "out").truths.values(), key=lambda truth: not truth.hidden)
    assert [(truth.hidden, len(truth.attacks)) for truth in truths] == [(True, 1), (False, 1)]
    kept = json.loads((tmp_path / "out" / "recorded" / suite.ATTACKS).read_text())
    assert kept == {digest(one): told, digest(two): list(fresh)}


def test_training_with_restarts_that_persist_lowers_what_they_find() -> None:
    recipe = trained.Recipe("mlp4", radius=0.5, pairs=1, width=0.01, epochs=2, persistent=6, near=6, gain=10.0, seed=3)
    network, points, _ = trained.train(recipe)
    again, _, _ = trained.train(recipe)
    state = network.state_dict()
    assert all(bool((value == state[name]).all()) for name, value in again.state_dict().items())
    found = trained.cases(network, points, recipe, (), {})
    assert all(case.family in ("trained", "clean") for case in found)
    around = trained._around(points.x[:1], points.wrong, points.epsilon, recipe, torch.Generator().manual_seed(1))
    assert bool(((around - points.x[:1]).abs() <= points.epsilon * 1.000001).all())
    assert bool(((around - points.wrong).abs().amax(-1) >= recipe.closest * points.epsilon / 2).all())


def test_no_attack_finds_what_the_committed_suite_marks_hidden() -> None:
    """As recorded: all attacks of each, 1000 restarts, none found; and trained ones are among them."""
    if not (COMMITTED / "manifest.json").exists():
        pytest.skip("no committed suite")
    committed = load_suite(COMMITTED)
    families = {item.id: item.family for item in committed.instances}
    hidden = [truth for truth in committed.truths.values() if truth.hidden]
    assert {"planted", "trained", "operators", "kinks"} <= {families[truth.id] for truth in hidden}
    for truth in hidden:
        assert [(record["restarts"], record["found"]) for record in truth.attacks] == [(1000, 0)] * len(attacks.SHORT)


def test_relations_hold_for_the_truths() -> None:
    for sat in (True, False):
        group, links = metamorphic.group(sat, [9, 0])
        labels = {case.key: case.label for case in group if case.label}
        from verinn.audit.instance import Relation

        for link in links:
            assert Relation(link.name, link.kind, link.keys).broken(labels) is None


def test_semantics_differ_where_they_are_said_to() -> None:
    made = semantics.case(4, [2])
    truth = finished(made, "a", 0)[1]
    assert not truth.agree
    assert {truth.label, truth.runtime_label} == {"sat", "unsat"}


def test_gradients_find_an_open_counterexample_and_no_planted_one() -> None:
    plan = Plan(3, Fraction(1, 256), rounds=2)
    from verinn.audit.attacks import Attack

    quick = (Attack("pgd", 0.1, 30, 50), Attack("apgd", 2.0, 30, 50))
    hidden = planted.planted(plan, [1], "a")
    assert [record["found"] for record in attacked(hidden, 0, quick)] == [0, 0]
    row = replace(hidden.query.assertions[-1], bound=Fraction(-2))  # type: ignore[arg-type]
    bare = replace(hidden, query=replace(hidden.query, assertions=(*hidden.query.assertions[:-1], row)))
    assert attacked(bare, 0, quick)[0]["found"]


def test_decimals_are_exact() -> None:
    for value in (Fraction(1, 2**30), Fraction(-3, 8), Fraction(5), Fraction(1, 5)):
        assert Fraction(decimal(value)) == value


def test_a_suite_is_the_same_twice_and_names_tell_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_suite(4, tmp_path / name, "quick", attack=False)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 80
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    written = load_suite(tmp_path / "one")
    for word in ("sat", "unsat", "witness", "twin", "safe"):
        assert f'"{word}' not in (tmp_path / "one" / "manifest.json").read_text()
    assert {truth.label for truth in written.truths.values()} == {"sat", "unsat"}


@pytest.mark.skipif(not (COMMITTED / "build.json").exists(), reason="no committed suite")
def test_the_committed_suite_rebuilds_bit_for_bit() -> None:
    """All models but the trained ones, whatever their names."""
    build = json.loads((COMMITTED / "build.json").read_text())
    sums = {path: wanted for path, wanted in build["sha256"].items() if path.endswith(".onnx")}
    mine = [
        case
        for case in cases(build["seed"])[0]
        if build["size"] != "quick" or case.quick or case.family == "metamorphic"
    ]
    made = {hashlib.sha256(packed(model)).hexdigest() for case in mine for model in case.models.values()}
    recorded = {wanted for path, wanted in sums.items() if not path.startswith(("onnx/trained", "onnx/clean"))}
    assert recorded == made
    for path, wanted in build["sha256"].items():
        assert hashlib.sha256((COMMITTED / path).read_bytes()).hexdigest() == wanted

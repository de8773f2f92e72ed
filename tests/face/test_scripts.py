"""The competition's scripts, called from a shell as the competition calls them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from face_tools import HERE, ONE, ROOT, TWO

SCRIPTS = ROOT / "benchmarks" / "vnncomp"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with files, and a `python` that runs verinn with the engine's stand-in."""
    (tmp_path / "one.vnnlib").write_text(ONE)
    (tmp_path / "two.vnnlib").write_text(TWO)
    python = tmp_path / "python"
    # The scripts call `python -m verinn verify …`, and `python -c` for lists.
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ]; then shift 2; exec {sys.executable} {HERE / "face_fake.py"} "$@"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    for name in ("sat", "unsat", "sleep", "bad", "crash"):
        (tmp_path / f"{name}.onnx").touch()
    return tmp_path


def call(place: Path, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "VERINN_PYTHON": str(place / "python"), "VERINN_STATE": str(place / "state")}
    return subprocess.run(
        [str(SCRIPTS / script), *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def verify(place: Path, onnx: str, vnnlib: str = "one.vnnlib", limit: str = "10") -> tuple[int, str]:
    """Exit code and the text of the results file (a relative path)."""
    done = call(place, "run_instance.sh", "v1", "acasxu", onnx, vnnlib, "results.txt", limit)
    assert "Traceback" not in done.stderr
    assert not [path for path in place.iterdir() if "results.txt" in path.name and path.name != "results.txt"]
    return done.returncode, (place / "results.txt").read_text()


def test_verdicts(place: Path) -> None:
    assert verify(place, "unsat.onnx") == (0, "unsat\n")
    assert verify(place, "sat.onnx") == (0, "sat\n((X_0 0.5)\n (X_1 0.5)\n (Y_0 1.0))\n")
    assert verify(place, "sleep.onnx", limit="1.5") == (0, "timeout\n")


def test_networks_as_a_list(place: Path) -> None:
    models = "[('f', 'sat.onnx')]"
    assert call(place, "prepare_instance.sh", "v1", "set", models, "two.vnnlib").returncode == 0
    assert verify(place, models, "two.vnnlib") == (0, "sat\nA float32 [1,2]\n0.5\n0.5\nB float32 []\n1.0\n")


@pytest.mark.parametrize(("onnx", "limit"), [("bad.onnx", "10"), ("crash.onnx", "10"), ("unsat.onnx", "0")])
def test_no_verdict_is_an_error_and_exit_0(onnx: str, limit: str, place: Path) -> None:
    (place / "results.txt").write_text("unsat\n")  # of an earlier run: must not survive
    assert verify(place, onnx, limit=limit) == (0, "error\n")


def test_a_missing_interpreter_is_an_error(place: Path) -> None:
    (place / "python").unlink()
    assert verify(place, "unsat.onnx") == (0, "error\n")


def test_results_may_lie_deep_and_have_spaces(place: Path) -> None:
    results = place / "new folder" / "the results.txt"
    done = call(place, "run_instance.sh", "v1", "set", "unsat.onnx", "one.vnnlib", str(results), "10")
    assert (done.returncode, results.read_text()) == (0, "unsat\n")


def test_a_terminated_script_still_answers(place: Path) -> None:
    environment = {**os.environ, "VERINN_PYTHON": str(place / "python"), "VERINN_STATE": str(place / "state")}
    child = subprocess.Popen(
        [str(SCRIPTS / "run_instance.sh"), "v1", "set", "sleep.onnx", "one.vnnlib", "results.txt", "60"],
        cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(1.5)
    child.terminate()
    assert child.wait(timeout=20) == 0
    assert (place / "results.txt").read_text() == "unknown\n"


def test_prepare_ends_what_was_left(place: Path) -> None:
    environment = {**os.environ, "VERINN_PYTHON": str(place / "python"), "VERINN_STATE": str(place / "state")}
    script = subprocess.Popen(
        [str(SCRIPTS / "run_instance.sh"), "v1", "set", "sleep.onnx", "one.vnnlib", "results.txt", "60"],
        cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not list((place / "state").glob("*.pid")) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = call(place, "prepare_instance.sh", "v1", "set", "unsat.onnx", "one.vnnlib")
    assert done.returncode == 0
    assert "ended process" in done.stderr
    assert script.wait(timeout=20) == 0
    assert (place / "results.txt").read_text() == "error\n"
    assert not list((place / "state").glob("*.pid"))


def test_prepare_leaves_strangers_alone(place: Path) -> None:
    (place / "state").mkdir()
    stranger = subprocess.Popen(["sleep", "30"])
    (place / "state" / "1.pid").write_text(f"{stranger.pid}\n")
    assert call(place, "prepare_instance.sh", "v1", "set", "unsat.onnx", "one.vnnlib").returncode == 0
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_prepare_checks_the_files(place: Path) -> None:
    for onnx, vnnlib in (("gone.onnx", "one.vnnlib"), ("unsat.onnx", "gone.vnnlib"), (".", "one.vnnlib")):
        done = call(place, "prepare_instance.sh", "v1", "set", onnx, vnnlib)
        assert done.returncode != 0
        assert "can't be read" in done.stderr
    assert call(place, "prepare_instance.sh", "v1", "set", "[('f', 'gone.onnx')]", "two.vnnlib").returncode != 0
    assert call(place, "prepare_instance.sh", "v1", "set", "[nonsense", "two.vnnlib").returncode != 0


@pytest.mark.parametrize("script", ["install_tool.sh", "prepare_instance.sh", "run_instance.sh"])
def test_only_version_1(script: str, place: Path) -> None:
    for arguments in ([], ["v2"], ["v2", "set", "unsat.onnx", "one.vnnlib", "results.txt", "10"]):
        done = call(place, script, *arguments)
        assert done.returncode != 0
        assert "v1" in done.stderr
    assert not (place / "results.txt").exists()

"""A stand-in for a verifier: ``python audit_fake.py MOOD MODEL PROPERTY [RESULT]``; the mood says what it does.

The models of the tests compute F (x0 + x1); F stands in the file, since names tell nothing.
"""

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

WITNESS = "((X_0 {x})\n (X_1 0.5)\n (Y_0 7.0))\n"


def has_counterexample(model: str) -> bool:
    return any(struct.pack("<2f", factor, factor) in Path(model).read_bytes() for factor in (1.0, 2.0))


def honest(model: str) -> str:
    return "sat\n" + WITNESS.format(x=0.5) if has_counterexample(model) else "unsat\n"


def unsat(model: str) -> str:
    """Lies where there is a counterexample."""
    return "unsat\n"


def sat(model: str) -> str:
    """Always the same counterexample: right for some models."""
    return "sat\n" + WITNESS.format(x=0.5)


def outside(model: str) -> str:
    return "sat\n" + WITNESS.format(x=1.0000001)


def useless(model: str) -> str:
    """In the box, but not violating."""
    return "sat\n((X_0 0.0)\n (X_1 0.0))\n"


def few(model: str) -> str:
    return "sat\n((X_0 0.5))\n"


def nan(model: str) -> str:
    return "sat\n((X_0 nan)\n (X_1 0.5))\n"


def silent(model: str) -> str:
    return "sat\n"


def unknown(model: str) -> str:
    return "unknown\n"


def crash(model: str) -> str:
    print("Traceback", f"ValueError: in {os.getcwd()}/odd.py", sep="\n", file=sys.stderr, flush=True)
    sys.exit(3)


def look_around(model: str) -> str:
    """Tells all that can be seen beside the instance, and fails unless that is nothing."""
    beside = sorted(os.listdir(os.path.dirname(model)))
    here = os.listdir(".")
    named = [name for name, value in os.environ.items() if name in ("PWD", "OLDPWD") and "suite" in value]
    print(beside, here, named, file=sys.stderr, flush=True)
    return honest(model) if beside == ["model.onnx", "property.vnnlib"] and not here and not named else "error\n"


def hang(model: str) -> str:
    """With a child in a process group of its own, which hangs, too."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
    Path(os.environ["FAKE_PIDS"]).write_text(str(child.pid))
    time.sleep(60)
    return ""


def hungry(model: str) -> str:
    """Holds 300 MiB in a child until it is ended."""
    code = (
        "block = bytearray(300 << 20)\nfor i in range(0, len(block), 4096): block[i] = 1\nimport time; time.sleep(60)"
    )
    subprocess.run([sys.executable, "-c", code])
    return "unsat\n"


if __name__ == "__main__":
    answer = globals()[sys.argv[1]](sys.argv[2])
    if len(sys.argv) > 4:
        Path(sys.argv[4]).write_text(answer)
    else:
        print(answer, end="", flush=True)

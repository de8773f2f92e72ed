"""Write the example's properties, instances.csv and truth.csv.

    python benchmarks/digits/properties.py [FOLDER]      (default: the folder of this file)

Each property asks about one test image: is there an image within `eps` of it in every pixel that the
network takes for another digit? `sat` means yes. For a series of eps the exact worst margin comes from
a mixed-integer program (HiGHS, through SciPy), which shares no code with verinn. The `unsat` property
uses half the largest eps at which the label provably holds, the `sat` property the smallest at which it
provably does not and the misread image was also seen by ONNX Runtime; margins below 0.05 count as
neither.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from scipy.optimize import Bounds, LinearConstraint, milp
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
CLEAR = 0.05
STEPS = [k / 128 for k in range(2, 33, 2)]
TIMEOUT = 60
# network, test image, VNN-LIB version
CASES = [("dense", 1440, "1.0"), ("dense", 1500, "2.0"), ("conv", 1440, "2.0"), ("conv", 1600, "1.0")]


@dataclass(frozen=True)
class Layer:
    """x → W x + b, followed by a ReLU except after the last."""

    weight: np.ndarray
    bias: np.ndarray


def layers(path: Path) -> tuple[list[Layer], tuple[int, ...]]:
    """The network as dense layers in float64, and the shape of its input."""
    graph = onnx.load(str(path)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    shape = tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    made, size = [], shape[1:]
    for node in graph.node:
        if node.op_type == "Gemm":
            made.append(Layer(weights[node.input[1]], weights[node.input[2]]))
        elif node.op_type == "Conv":
            layer, size = _dense_conv(weights[node.input[1]], weights[node.input[2]], size)
            made.append(layer)
    return made, shape


def _dense_conv(kernel: np.ndarray, bias: np.ndarray, size: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
    """A 3 × 3 convolution with stride 2 and padding 1 as a matrix."""
    outs, ins, height, width = kernel.shape[0], *size
    rows, cols = (height + 1) // 2, (width + 1) // 2
    matrix = np.zeros((outs, rows, cols, ins, height, width))
    for r in range(rows):
        for c in range(cols):
            for i in range(3):
                for j in range(3):
                    y, x = 2 * r + i - 1, 2 * c + j - 1
                    if 0 <= y < height and 0 <= x < width:
                        matrix[:, r, c, :, y, x] = kernel[:, :, i, j]
    flat = matrix.reshape(outs * rows * cols, -1)
    return Layer(flat, np.repeat(bias, rows * cols)), (outs, rows, cols)


def worst(net: list[Layer], lower: np.ndarray, upper: np.ndarray, label: int, rival: int) -> tuple[float, np.ndarray]:
    """The largest y[rival] - y[label] over the box, and the input where it is reached."""
    columns = len(lower)
    low, high, whole = [lower], [upper], [np.zeros(columns)]
    rows: list[tuple[np.ndarray, np.ndarray, tuple[float, float]]] = []  # columns, coefficients, bounds
    ids = np.arange(columns)
    box = (lower, upper)
    for layer in net[:-1]:
        centre, radius = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
        middle, spread = layer.weight @ centre + layer.bias, np.abs(layer.weight) @ radius
        pre = (middle - spread, middle + spread)
        count = len(layer.bias)
        outs, gates = columns + np.arange(count), columns + count + np.arange(count)
        low += [np.zeros(count), np.zeros(count)]
        high += [np.maximum(pre[1], 0), np.ones(count)]
        whole += [np.zeros(count), np.ones(count)]
        for k in range(count):
            row, bias = layer.weight[k], layer.bias[k]
            # out ≥ z;  out ≤ z - l (1 - gate);  out ≤ u gate, with z = row · x + bias
            least, most = min(pre[0][k], 0.0), max(pre[1][k], 0.0)
            rows.append((np.r_[ids, outs[k]], np.r_[-row, 1.0], (bias, np.inf)))
            rows.append((np.r_[ids, outs[k], gates[k]], np.r_[-row, 1.0, -least], (-np.inf, bias - least)))
            rows.append((np.r_[outs[k], gates[k]], np.r_[1.0, -most], (-np.inf, 0.0)))
        ids, box = outs, (np.maximum(pre[0], 0), np.maximum(pre[1], 0))
        columns += 2 * count
    last = net[-1]
    goal = np.zeros(columns)
    goal[ids] = last.weight[label] - last.weight[rival]
    matrix = np.zeros((len(rows), columns))
    for at, (where, values, _) in enumerate(rows):
        matrix[at, where] = values
    constraint = LinearConstraint(matrix, [r[2][0] for r in rows], [r[2][1] for r in rows])
    bounds = Bounds(np.concatenate(low), np.concatenate(high))
    answer = milp(goal, constraints=constraint, bounds=bounds, integrality=np.concatenate(whole))
    if answer.status != 0:
        raise RuntimeError(answer.message)
    return float(-answer.fun + last.bias[rival] - last.bias[label]), answer.x[: len(lower)]


def search(path: Path, image: np.ndarray, label: int) -> tuple[float, float]:
    """(eps of the `unsat` property, eps of the `sat` property)."""
    net, shape = layers(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    holds = 0.0
    for eps in STEPS:
        lower, upper = np.maximum(image - eps, 0), np.minimum(image + eps, 1)
        answers = [worst(net, lower, upper, label, rival) for rival in range(10) if rival != label]
        margin, point = max(answers, key=lambda answer: answer[0])
        if margin < -CLEAR:
            holds = eps
        elif margin > CLEAR:
            misread = np.clip(point, lower, upper).astype(np.float32).reshape(shape)
            if int(session.run(None, {"X": misread})[0].argmax()) != label:
                return holds / 2, eps
    raise RuntimeError(f"{path.name}: no misread image up to {STEPS[-1]}")


def text_one(image: np.ndarray, eps: float, label: int, note: str) -> str:
    """VNN-LIB 1.0."""
    lines = [f"; {note}", ""]
    lines += [f"(declare-const X_{i} Real)" for i in range(len(image))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(10)]
    lines.append("")
    for i, pixel in enumerate(image):
        lines.append(f"(assert (>= X_{i} {max(pixel - eps, 0.0)}))")
        lines.append(f"(assert (<= X_{i} {min(pixel + eps, 1.0)}))")
    rivals = "\n".join(f"    (and (>= Y_{j} Y_{label}))" for j in range(10) if j != label)
    return "\n".join(lines) + f"\n\n(assert (or\n{rivals}\n))\n"


def text_two(image: np.ndarray, eps: float, label: int, note: str, shape: tuple[int, ...]) -> str:
    """VNN-LIB 2.0."""
    dims = ", ".join(map(str, shape))
    lines = [f"; {note}", "(vnnlib-version <2.0>)", ""]
    lines += ["(declare-network digits", f"    (declare-input X float32 [{dims}])"]
    lines += ["    (declare-output Y float32 [1, 10])", ")", ""]
    for index, pixel in zip(np.ndindex(*shape), image, strict=True):
        name = f"X[{','.join(map(str, index))}]"
        lines.append(f"(assert (>= {name} {max(pixel - eps, 0.0)}))")
        lines.append(f"(assert (<= {name} {min(pixel + eps, 1.0)}))")
    rivals = "\n".join(f"    (>= Y[0,{j}] Y[0,{label}])" for j in range(10) if j != label)
    return "\n".join(lines) + f"\n\n(assert (or\n{rivals}\n))\n"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    (folder / "vnnlib").mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    listed = []
    for name, index, version in CASES:
        image, label = digits.data[index] / 16.0, int(digits.target[index])
        model = f"digits_{name}.onnx"
        shape = layers(HERE / "onnx" / model)[1]
        for verdict, eps in zip(("unsat", "sat"), search(HERE / "onnx" / model, image, label), strict=True):
            note = f"test image {index}, a {label}, every pixel within {eps}: another digit?"
            parts = (image, eps, label, note)
            text = text_one(*parts) if version == "1.0" else text_two(*parts, shape)
            file = f"{name}_{index}_{verdict}.vnnlib"
            (folder / "vnnlib" / file).write_text(text)
            listed.append((f"onnx/{model}", f"vnnlib/{file}", verdict))
            print(file, eps)
    with open(folder / "instances.csv", "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows((o, v, TIMEOUT) for o, v, _ in listed)
    with open(folder / "truth.csv", "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("onnx", "vnnlib", "expected"))
        writer.writerows(listed)


if __name__ == "__main__":
    main()

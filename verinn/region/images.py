"""Images in and pictures out: pixels from .npy and .png files, what was found as PNG, bounds as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verinn.errors import InputError


def load_image(path: str | Path, index: int | None = None) -> np.ndarray:
    """Pixels as float64: of a PNG and of an array of bytes in units of 1/255 (0 to 1), else as the array has them.

    ``index``: which image of an array of images. Raises InputError.
    """
    name = str(path)
    if not Path(path).is_file():
        raise InputError("no such file", file=name, hint="name an image: .npy or .png")
    array = _png(path) if name.lower().endswith(".png") else _npy(path)
    if index is not None:
        if array.ndim < 2 or not 0 <= index < len(array):
            raise InputError(f"holds no image {index} (its shape is {list(array.shape)})", file=name)
        array = array[index]
    if array.dtype == np.uint8:
        return array / 255.0
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InputError("holds values that are not finite numbers", file=name)
    return array.astype(np.float64)


def _npy(path: str | Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InputError(
            f"is no .npy array ({str(error)[:80]})", file=str(path), hint="numpy.save writes one"
        ) from None


def _png(path: str | Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"is no PNG image ({str(error)[:80]})", file=str(path)) from None


def picture(values: np.ndarray) -> np.ndarray | None:
    """Values of an input's shape as (H, W) or (H, W, 3); None where that is no picture."""
    inner = np.squeeze(values)
    if inner.ndim == 1 and (side := round(len(inner) ** 0.5)) ** 2 == len(inner) and side > 2:
        inner = inner.reshape(side, side)
    if inner.ndim == 3 and inner.shape[0] == 3:
        inner = np.moveaxis(inner, 0, -1)
    if (inner.ndim == 2 and min(inner.shape) > 2) or (inner.ndim == 3 and inner.shape[-1] == 3):
        return inner
    return None


def save_pictures(folder: str | Path, original: np.ndarray | None, found: np.ndarray | None) -> list[Path]:
    """original.png, adversarial.png and difference.png (grey where nothing changed), as far as there is one.

    ``original``, ``found``: pixels in an input's shape, 0 to 1. InputError where the folder can't be written.
    """
    import matplotlib.image

    made = []
    shown = {"original": original, "adversarial": found}
    if original is not None and found is not None:
        change = found - original
        most = float(np.abs(change).max(initial=0.0)) or 1.0
        shown["difference"] = 0.5 + change / (2 * most)
    for name, values in shown.items():
        image = None if values is None else picture(values)
        if image is not None:
            path = _ready(folder) / f"{name}.png"
            clear = np.kron(np.clip(image, 0, 1), np.ones((_zoom(image), _zoom(image), *[1] * (image.ndim - 2))))
            try:
                matplotlib.image.imsave(path, clear, vmin=0, vmax=1, cmap="gray")
            except OSError as error:
                raise InputError(f"can't be written ({error.strerror})", file=str(path)) from None
            made.append(path)
    return made


def _zoom(image: np.ndarray) -> int:
    return max(1, 256 // max(int(image.shape[0]), int(image.shape[1])))


def _ready(folder: str | Path) -> Path:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't be made ({error.strerror})", file=str(folder), hint="choose a writable place"
        ) from None
    return Path(folder)


def save_plot(
    path: str | Path, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], x: str, y: str, title: str
) -> Path:
    """Curves (name, xs, ys) as steps in one plot, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for name, xs, ys in curves:
        axes.step(xs, ys, where="post", label=name)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    target = _ready(Path(path).parent) / Path(path).name
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        raise InputError(f"can't be written ({error.strerror})", file=str(path)) from None
    return target

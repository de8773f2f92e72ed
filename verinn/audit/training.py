"""The trained networks of each size of suite."""

from __future__ import annotations

from verinn.audit.trained import Recipe

# Of reduced size: minutes each on one core.
COMMITTED = (
    Recipe(
        "mlp4", radius=0.5, pairs=2, width=0.2, epochs=22_000, persistent=48, near=64, gain=10.0, rate=0.002, seed=1
    ),
    Recipe(
        "cnn1", radius=0.5, pairs=2, width=0.1, epochs=34_000, persistent=48, near=64, gain=10.0, rate=0.002, seed=2
    ),
)

# As the paper's 26: two radii each, images of one and three channels; and a residual network.
FULL = (
    *(Recipe(name, radius=radius) for name in ("mlp4", "mlp5") for radius in (0.2, 0.5)),
    *(
        Recipe(name, channels=channels, radius=radius)
        for name in ("cnn1", "cnn2", "cnn3", "avgpool", "tanh", "sigmoid", "residual", "vit")
        for channels in (1, 3)
        for radius in (0.2, 0.5)
    ),
)

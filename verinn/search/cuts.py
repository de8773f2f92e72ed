"""What ReLU splits say of the inputs, as rows of a region, kept fresh while a batch is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation
from verinn.bounds.region import Region, least_in
from verinn.ops.program import Step


class SplitRows:
    """Rows a (D, K, n), c (D, K) of the splits of a batch, beside the property's cuts.

    A row of an earlier, wider domain holds in its parts too, so rows are right from the start; each is
    made afresh once the values before its neuron are bounded, and is exact when they are all stable.
    """

    def __init__(
        self,
        region: Region,
        splits: Tensor,
        rows: tuple[Tensor, Tensor],
        relus: Sequence[Step],
        starts: Sequence[int],
        box: tuple[Tensor, Tensor],
    ):
        """``region``: boxes and cuts; ``splits`` and ``rows`` as in Domains; ``box`` in the search's dtype."""
        self.cuts = region
        self.splits = splits
        self.a, self.c = rows
        self.relus = {step.node.inputs[0]: number for number, step in enumerate(relus)}
        self.starts = starts
        self.box = box

    @property
    def region(self) -> Region:
        """Boxes with all rows as they are now."""
        return self.cuts.with_rows(self.a, self.c)

    def refresh(self, relaxation: Relaxation, step: Step) -> None:
        number = self.relus.get(step.node.name)
        if number is None or not self.splits.shape[1]:
            return
        first, last = self.starts[number], self.starts[number + 1]
        mine = (self.splits >= 2 * first) & (self.splits < 2 * last)
        most = int(mine.sum(1).max())
        if not most:
            return
        column = mine.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        valid = mine.gather(1, column)
        code = self.splits.gather(1, column)
        index = torch.where(valid, code // 2 - first, 0)
        sign = 1.0 - 2.0 * (code % 2)  # phase 0 says z ≤ 0, phase 1 says −z ≤ 0
        form = Backward(relaxation).run({step.node.name: OneHot(index, sign)}).exact(*self.box)
        wide = column.unsqueeze(-1).expand(-1, -1, self.a.shape[-1])
        self.a = self.a.scatter(1, wide, torch.where(valid.unsqueeze(-1), form.a.double(), self.a.gather(1, wide)))
        self.c = self.c.scatter(1, column, torch.where(valid, form.c, self.c.gather(1, column)))

    def minimum(self, form: LinearForm, lower: Tensor, upper: Tensor) -> Tensor:
        """Over the box or over the region, whichever says more."""
        plain = form.minimum(lower, upper)
        region = self.region
        if region.a.shape[1] == 0:
            return plain
        exact = form.exact(lower, upper)
        a = exact.a.double().expand(len(lower), *exact.a.shape[1:])
        wanted = self._undecided(plain)
        if bool(wanted.any()):
            plain[wanted] = torch.fmax(plain[wanted], least_in(region, a, exact.c.expand(len(lower), -1), wanted))
        return plain

    @staticmethod
    def _undecided(plain: Tensor) -> Tensor:
        """Forms of neurons whose sign is still open: rows come as all lower bounds, then all upper ones."""
        half = plain.shape[1] // 2
        loose = (plain[:, :half] < 0) & (plain[:, half:] < 0)
        return torch.cat([loose, loose], 1)

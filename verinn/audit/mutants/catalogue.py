"""All mutants by name."""

from __future__ import annotations

from verinn.audit.mutants.bounds import BOUNDS
from verinn.audit.mutants.exact import EXACT
from verinn.audit.mutants.mutant import Mutant
from verinn.audit.mutants.readers import READERS
from verinn.audit.mutants.search import SEARCH

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*BOUNDS, *SEARCH, *EXACT, *READERS)}

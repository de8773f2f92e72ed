"""The rational referee lives beside the tests of the bounds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bounds"))

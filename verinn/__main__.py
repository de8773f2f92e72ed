"""``python -m verinn`` is the same as ``verinn``."""

import sys

from verinn.cli import main

if __name__ == "__main__":
    sys.exit(main())

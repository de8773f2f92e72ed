"""verinn and other verifiers on the same instances, in turns: ``python -m benchmarks.compare --help``."""

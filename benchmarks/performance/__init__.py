"""How fast bounds and searches are: ``python -m benchmarks.performance --help``."""

"""What can be measured: examples, performance, comparisons. Run from the repository's root; not installed."""

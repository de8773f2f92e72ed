"""Faults of our own, injected while a process runs: the soundness suite must catch every one of them."""

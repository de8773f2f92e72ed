"""Exact formulas as linear programmes over binaries, and a search whose every refutation is weighed again."""

"""A graph as an exact formula that no solver has been chosen for: forms, facts, choices, products, curves."""

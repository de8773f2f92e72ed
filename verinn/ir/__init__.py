"""Frozen data that flows between the stages: Graph, Query, Property."""

"""Discretised region search: grids, cells, hidden layers, manipulations of images, distances.

After "Safety Verification of Deep Neural Networks" (Huang, Kwiatkowska, Wang, Wu; CAV 2017), with what the
paper assumes turned into proof obligations. Nothing here is believed that bounds or exact arithmetic did not
prove, and a time-out, an interrupt or a lack of memory never ends as a proof.
"""

"""A training run from its plan to its results, and how it is resumed, interrupted or called failed.

Imports ``qa.hub`` and below.
"""

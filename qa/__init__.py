"""What the commands share: arguments, data, windows, spans, scores, models, training.

Imports run one way: the commands at the top level import this package, and it imports none of them.
"""

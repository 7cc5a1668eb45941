"""Questions from files or the Hub, checked and cut into windows of tokens with labels. Needs no torch.

Imports ``qa.options`` and below.
"""

"""Logits to spans and answers, and questions to answers with a model. ``spans`` and ``decoding`` need no torch.

Imports ``qa.model`` and below.
"""

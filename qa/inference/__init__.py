"""Decode logits to answers, and answer questions with a model. Imports ``qa.model`` and below."""

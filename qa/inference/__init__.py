"""Logits to answers, and questions to answers. Imports ``qa.model`` and below."""

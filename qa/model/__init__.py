"""Loading a model and its tokenizer, batches, the loss, faster training steps, and the memory they need.

Imports ``qa.data`` and below.
"""

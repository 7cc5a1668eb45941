"""Load models, build batches, optimize training steps, estimate memory. Imports ``qa.data`` and below."""

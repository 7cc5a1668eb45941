"""Training, and never losing a run. Imports ``qa.evaluation`` and below."""

"""Options: one row for each, the dataclasses they make, parsing, help, and settings saved with a model.

Imports ``qa.io`` and below; only ``training_arguments`` imports torch and transformers.
"""

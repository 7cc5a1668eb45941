"""Options: definitions, parsing, validation and saved settings. Imports ``qa.io`` and below; only
``training_arguments`` imports torch and transformers.
"""

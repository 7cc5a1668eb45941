"""What can be set: options, their values and where they are read from. Imports ``qa.io`` and below; only
``training_arguments`` imports torch and transformers.
"""

"""What each command does once its options are read: imported only then, as this loads torch and transformers.

Imports ``qa.training`` and below.
"""

"""Process configuration, console output, errors, and several processes as one.

Imports nothing else of ``qa``.
"""

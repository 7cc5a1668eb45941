"""Files and folders on disk: writing a file whole, and the names of all files of a run.

Imports ``qa.runtime``.
"""

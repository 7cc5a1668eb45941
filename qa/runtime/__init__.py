"""The process and its messages: errors, several processes. Imports nothing else of ``qa``."""

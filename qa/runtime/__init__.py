"""Process configuration, console output, errors, distributed helpers. Imports nothing else of ``qa``."""

"""Publishing a finished run. Imports ``qa.options`` and below."""

"""Questions from files to windows of tokens. Imports ``qa.options`` and below."""

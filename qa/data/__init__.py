"""Read questions, check them, and cut them into windows of tokens. Imports ``qa.options`` and below."""

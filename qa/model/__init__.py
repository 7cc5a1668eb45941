"""Loading a model, what makes it faster, what memory it needs. Imports ``qa.data`` and below."""

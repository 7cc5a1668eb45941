"""Publishing a finished run on the Hub, with its model card.

Imports ``qa.evaluation`` and below; today ``qa.options`` and below suffice.
"""

"""From answers to scores: the metric, the ceiling, comparison, the report. Imports ``qa.inference`` and below."""

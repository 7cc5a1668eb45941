"""Answers to scores: the official metric, the ceiling, error analysis, comparison and the report.

Imports ``qa.inference`` and below.
"""

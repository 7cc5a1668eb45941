"""Answers to scores, and what lies behind them. Imports ``qa.inference`` and below."""

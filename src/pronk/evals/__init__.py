"""Measures of models, plots and reports."""

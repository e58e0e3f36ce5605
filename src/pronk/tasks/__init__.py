"""Prompts with a grade: the same object is evaluated and trained on."""

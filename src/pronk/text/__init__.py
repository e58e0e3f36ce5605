"""Tokenizers, their training, and the chat template."""

"""Opens and saves model folders: weights, tokenizer and template together."""

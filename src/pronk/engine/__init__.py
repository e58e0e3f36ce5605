"""Generation: ids in, sampled ids and their log-probabilities out."""

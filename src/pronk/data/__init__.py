"""Records, readers, token shards, the loader, and the batches that training eats."""

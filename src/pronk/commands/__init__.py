"""One stage a file: a Config and a run."""

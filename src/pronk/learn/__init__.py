"""Gradients: the learner, the one loop, optimizers, checkpoints, tracking."""

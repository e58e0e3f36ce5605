"""Rollouts, rewards, advantages and the losses that spend them."""

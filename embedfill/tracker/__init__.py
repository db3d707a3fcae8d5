"""Texts to ended batches: plan, shards, state, and one step forward at a time."""

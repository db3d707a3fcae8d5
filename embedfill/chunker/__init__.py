"""Documents to chunks: pure functions."""

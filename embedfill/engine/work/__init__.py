"""How batches are checked and run on local models."""

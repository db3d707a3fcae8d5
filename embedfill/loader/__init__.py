"""Output lines to vectors in Parquet."""

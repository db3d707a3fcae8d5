"""Parquet files to documents: which files, which columns, and the rows one batch at a time."""

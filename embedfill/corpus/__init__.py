"""Parquet files to documents, by row group, only the columns needed."""

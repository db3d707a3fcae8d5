"""The document and chunk tables: what the corpus holds and what is wanted."""

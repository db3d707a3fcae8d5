"""What the engine keeps: rows, bytes, and whose they are."""

"""Vectors to a FAISS index, measured and published, and to hits."""

"""Embedding models: what is known of each, their tokenizers, and the local ones that run in this process."""

"""The Batch API server, a process of its own."""

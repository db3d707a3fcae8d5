"""Prepared requests of any endpoint through the Batch API: one answer for each, in the order of the input."""

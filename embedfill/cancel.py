"""Cancels what is in flight and collects what was done. Submits nothing."""

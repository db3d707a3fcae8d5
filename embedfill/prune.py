"""Removes what nothing refers to any more. Never removes what was paid for."""

"""Where CPU-heavy stages run: map(function, items)."""

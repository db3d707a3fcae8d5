"""What the engine says of itself: logs, numbers, health."""

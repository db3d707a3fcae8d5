"""The engine over HTTP: routes, who asks, and what is let in."""

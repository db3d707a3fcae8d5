"""The tests: one file per module, real parts wherever they can run, no network but 127.0.0.1."""

"""`embedfill engine`: runs the Batch API server. Its arguments live with the engine, which also starts without us."""

from embedfill.engine.command import command

__all__ = ["command"]

"""The wire of the Files + Batches API, shared by the client and the engine."""

"""embedfill keeps the vectors and the search index of a document store in step with its documents."""

__version__ = "0.1.0"

"""Searching the published index: opens it, embeds queries with the model that its vectors came from, gives hits."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedfill.chunker.template import Template
from embedfill.config import Config
from embedfill.errors import UsageError
from embedfill.index.publish import current
from embedfill.index.search import Searcher
from embedfill.models.base import Vectors, shorten
from embedfill.models.load import load as load_model
from embedfill.project import Project, open_project
from embedfill.providers.connect import query_request, remote_client
from embedfill.records import Hit, Snapshot

_QUERIES_AT_ONCE = 64


class Retriever:
    """The published index of a configuration's store."""

    def __init__(self, project: Project, snapshot: Snapshot, searcher: Searcher) -> None:
        self.project = project
        self.snapshot = snapshot
        self._searcher = searcher
        self._template = Template(snapshot.query_template, "query", "embedding.query_template")

    @classmethod
    def open(cls, config: Config) -> Self:
        """Opens what is published. Raises UsageError where nothing is, or where the configured provider cannot embed
        queries for it."""
        project = open_project(config, read_only=True)
        snapshot = current(project.store, project.cache).snapshot
        if snapshot is None:
            raise UsageError(
                f"nothing is published in {project.store.url} yet", "make an index with: embedfill run CONFIG"
            )
        if (snapshot.space.profile, snapshot.space.origin) != (project.space.profile, project.space.origin):
            raise UsageError(
                f"the published index was embedded by {snapshot.space.profile} at {snapshot.space.origin}, "
                f"the configuration names {project.space.profile} at {project.space.origin}",
                "search with the configuration that built it, or run this one first",
            )
        return cls(project, snapshot, open_index(project, snapshot))

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The best `k` chunks for one query, best first."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int = 10, by_document: bool = False) -> list[list[Hit]]:
        """Hits of several queries; with `by_document` the best chunk of each of the best `k` documents."""
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            vectors = self.embed(queries[start : start + _QUERIES_AT_ONCE])
            hits += self._searcher.search(vectors, k, by_document)
        return hits

    def embed(self, queries: Sequence[str]) -> Vectors:
        """Query vectors, float32, shape (len(queries), dimensions), with the query template applied."""
        if not all(query.strip() for query in queries):
            raise UsageError("the query is empty", "give a question or some words")
        texts = [self._template.render(_encodable(query), {}) for query in queries]
        space = self.snapshot.space
        if space.profile == "local":
            return shorten(load_model(space.model).embed(texts), space.dimensions)
        request = query_request(self.project.config, space)
        with remote_client(self.project.config.embedding, self.project.profile) as client:
            vectors = client.embed(texts, space.model, request.dimensions, request.body(texts))
            return np.asarray(vectors, np.float32)


def _encodable(text: str) -> str:
    """Lone surrogates, which no encoding of text has, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def open_index(project: Project, snapshot: Snapshot) -> Searcher:
    """Opens the index files of a snapshot. Raises MissingError or SearchIndexError where one is gone or damaged."""
    files = {name: project.cache.path(key) for name, key in snapshot.index.files.items()}
    return Searcher.open(snapshot.index, files)

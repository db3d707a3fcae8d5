#!/usr/bin/env python3
"""Cuts the sample corpus of the quickstart out of a larger one: whole pages, and the questions they answer.

Reads sections.parquet, queries.parquet and qrels.parquet from SOURCE and writes three files of the same names to OUT
(configs/sample unless told otherwise). The same source gives the same files. It embeds nothing and judges nothing.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SECTION_COLUMNS = ["id", "page", "page_title", "heading", "text"]
KIND = "faq"  # questions that people asked; the other kind is section headings
PAGES = (  # the FAQ, and what stands near its answers: a question must find its own among like ones
    "python/about",
    "python/bugs",
    "python/copyright",
    "python/extending/",
    "python/faq/",
    "python/glossary",
    "python/howto/functional",
    "python/howto/pyporting",
    "python/howto/sockets",
    "python/howto/sorting",
    "python/howto/unicode",
    "python/installing/",
    "python/reference/compound_stmts",
    "python/reference/executionmodel",
    "python/reference/introduction",
    "python/reference/lexical_analysis",
    "python/reference/simple_stmts",
    "python/tutorial/",
    "python/using/",
)


def sections(source: Path, prefixes: tuple[str, ...]) -> pa.Table:
    """The sections of the pages whose name is a prefix, or begins with one that ends in a slash."""
    table = pq.read_table(source / "sections.parquet", columns=SECTION_COLUMNS)
    keep = [page in prefixes or page.startswith(folders(prefixes)) for page in table["page"].to_pylist()]
    return table.filter(pa.array(keep)).combine_chunks()


def folders(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix for prefix in prefixes if prefix.endswith("/"))


def questions(source: Path, documents: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Queries and judgements of KIND whose relevant documents are all among `documents`."""
    queries = pq.read_table(source / "queries.parquet")
    qrels = pq.read_table(source / "qrels.parquet", columns=["query_id", "document_id", "relevance"])
    inside = pc.is_in(qrels["document_id"], value_set=documents["id"].combine_chunks())
    lost = qrels.filter(pc.invert(inside))["query_id"].combine_chunks()
    queries = queries.filter(pc.and_(pc.equal(queries["kind"], KIND), pc.invert(pc.is_in(queries["query_id"], lost))))
    qrels = qrels.filter(pc.is_in(qrels["query_id"], value_set=queries["query_id"].combine_chunks()))
    return queries.select(["query_id", "text"]), qrels


def write(table: pa.Table, path: Path) -> None:
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd", compression_level=19)
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder with sections.parquet, queries.parquet and qrels.parquet")
    parser.add_argument("--out", type=Path, default=ROOT / "configs" / "sample")
    parser.add_argument("--pages", nargs="+", default=PAGES, help="page names; one that ends in / means all below it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    documents = sections(options.source, tuple(options.pages))
    queries, qrels = questions(options.source, documents)
    write(documents, options.out / "sections.parquet")
    write(queries, options.out / "queries.parquet")
    write(qrels, options.out / "qrels.parquet")


if __name__ == "__main__":
    main()

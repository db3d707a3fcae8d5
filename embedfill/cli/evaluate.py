"""`embedfill eval`: retrieval quality on judged questions."""

from dataclasses import asdict
from pathlib import Path

import click

from embedfill.cli.common import config_argument, output_options, show
from embedfill.config import load
from embedfill.evaluate import evaluate_index

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("eval")
@config_argument
@click.option("--queries", required=True, type=_FILE, help="Parquet with query_id, text.")
@click.option("--qrels", required=True, type=_FILE, help="Parquet with query_id, document_id, relevance.")
@click.option("--out", type=_FILE, help="Write the ranked hits to this Parquet file.")
@output_options
def command(config: Path, queries: Path, qrels: Path, out: Path | None, as_json: bool) -> int:
    """Measure recall@10, MRR@10 and nDCG@10 of the published index, by document.

    \b
    Example:
      embedfill eval embedfill.toml --queries questions.parquet --qrels judgements.parquet --out ranked.parquet
    """
    metrics = evaluate_index(load(config), queries, qrels, out)
    show(
        asdict(metrics),
        as_json,
        lambda: [
            f"queries {metrics.queries:,}  recall@10 {metrics.recall_at_10:.4f}  "
            f"MRR@10 {metrics.mrr_at_10:.4f}  nDCG@10 {metrics.ndcg_at_10:.4f}"
        ],
    )
    return 0

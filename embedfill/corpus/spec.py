"""Which columns of a corpus are read, and as what. Does not read them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from embedfill import ids
from embedfill.config import Config
from embedfill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CorpusSpec:
    """All that decides what is read of a file. `fields` are the columns whose values the template names."""

    id_column: str
    text_columns: tuple[str, ...]
    metadata: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    version: int = 1

    @property
    def id(self) -> str:
        return ids.digest_hex("corpusspec", ids.canonical(asdict(self)))

    @property
    def columns(self) -> list[str]:
        """Every column that is read, once."""
        return list(dict.fromkeys([self.id_column, *self.text_columns, *self.metadata, *self.fields]))


def spec_of(config: Config, template_names: Sequence[str]) -> CorpusSpec:
    """The columns that a configuration names. `template_names` are the names in braces of its template.

    `{text}` is the document's text, and so is the column's own name where there is one text column: neither is a
    field. Raises ConfigError for a name that is no configured column.
    """
    corpus = config.corpus
    text = tuple(dict.fromkeys(corpus.text_columns))
    known = [*corpus.metadata, *text, corpus.id]
    for name in template_names:
        if name != "text" and name not in known:
            allowed = f"{{{name}}} is none of {{text}}, corpus.metadata, corpus.text and corpus.id"
            raise ConfigError("embedding.template", config.embedding.template, allowed)
    itself = {"text", *text} if len(text) == 1 else {"text"}
    fields = tuple(sorted(set(template_names) - itself))
    return CorpusSpec(corpus.id, text, tuple(dict.fromkeys(corpus.metadata)), fields)

"""How a provider's batch files and requests differ from the OpenAI API's. Data; the writer of lines and the client
read it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Dialect:
    """`model_in`: where the model and its options stand, in each line's body or once in the batch's `request_params`.
    `windows` are the completion windows on offer, the usual one first. `dimensions` and `encoding` are the parameters'
    names, None where there is none such. `auth` is the header that carries the key; a bearer token in Authorization."""

    model_in: Literal["line", "batch"] = "line"
    windows: tuple[str, ...] = ("24h",)
    dimensions: str | None = "dimensions"
    encoding: str | None = "encoding_format"
    auth: str = "Authorization"


OPENAI_DIALECT = Dialect()

"""How a provider's batch files and requests differ from the OpenAI API's. Data; the writer of lines and the client
read it."""

from dataclasses import dataclass
from typing import Literal

EncodingFormat = Literal["base64", "float"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`model_in`: where the model and its options stand, in each line's body or once in the batch's `request_params`.
    `endpoint` is how lines and POST /batches name the embeddings endpoint. `windows` are the completion windows on
    offer, the usual one first. `dimensions` and `encoding` are the parameters' names, None where there is none such;
    `formats` are the encodings on offer, the best first, and `unsaid` the one that is had by not naming any. `auth` is
    the header that carries the key; a bearer token in Authorization. `delete`: whether a file to be deleted is named in
    the path of a DELETE, or in the body of POST /files/delete."""

    model_in: Literal["line", "batch"] = "line"
    endpoint: str = "/v1/embeddings"
    windows: tuple[str, ...] = ("24h",)
    dimensions: str | None = "dimensions"
    encoding: str | None = "encoding_format"
    formats: tuple[EncodingFormat, ...] = ("base64", "float")
    unsaid: EncodingFormat | None = None
    auth: str = "Authorization"
    delete: Literal["path", "body"] = "path"


OPENAI_DIALECT = Dialect()

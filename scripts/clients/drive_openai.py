"""The official client, any major version: every verb it has for what the engine serves, synchronous and asynchronous."""

import openai_batches  # noqa: F401 - each holds checks
import openai_routed  # noqa: F401
import openai_storage  # noqa: F401
import openai_webhooks  # noqa: F401
from checks import check, main
from openai_kit import beyond


@check("fields that this version does not know")
async def unknown_fields() -> str:
    return ", ".join(sorted(beyond)) or "none"


if __name__ == "__main__":
    main("openai")

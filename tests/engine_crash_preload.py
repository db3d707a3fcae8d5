"""What the fork server of the crash tests loads once, so that no engine has to: its modules, and the model."""

import uvicorn.loops.auto
import uvicorn.protocols.http.auto  # noqa: F401

from embedfill.models.load import load
from tests import engine_crash_worker  # noqa: F401

load("wordllama-256", 1)

"""The jobs of a store are found again by what they noted there."""

from typing import Any

import pytest

from embedfill.errors import UsageError
from embedfill.jobs.config import load_job
from embedfill.jobs.held import note, open_held
from embedfill.jobs.open import OpenJob, open_job
from embedfill.store import layout
from tests.chat_fixtures import CHAT, Job

RESPONSES = "/v1/responses"
OTHER = {"provider": "generic", "base_url": "http://other.invalid/v1"}


def noted(job: Job, endpoint: str = CHAT, **provider: Any) -> OpenJob:
    given = {"provider": "generic", "base_url": job.provider.url, **provider}
    opened = open_job(load_job(None, {"provider": given}), store(job), endpoint)
    note(opened)
    return opened


def store(job: Job) -> str:
    return str(job.folder / "store")


def held(job: Job, endpoint: str | None = None, **provider: Any) -> OpenJob:
    return open_held(load_job(None, {"provider": provider}), store(job), endpoint)


def test_the_only_job_need_not_be_named(job: Job) -> None:
    first = noted(job, organization="mine")
    note(first)  # again, as each run does
    found = held(job)
    assert (found.space, found.endpoint, found.config.provider) == (first.space, CHAT, first.config.provider)


def test_one_of_several_is_named_as_far_as_it_takes(job: Job) -> None:
    spaces = {noted(job).space: (CHAT, {}), noted(job, RESPONSES).space: (RESPONSES, {})}
    for space, (endpoint, _) in spaces.items():
        assert held(job, endpoint).space == space
    other = noted(job, **OTHER)
    assert held(job, **OTHER).space == other.space
    assert held(job, CHAT, provider="generic", base_url=job.provider.url).space in spaces
    for given in ({"endpoint": None}, {"endpoint": CHAT}):
        with pytest.raises(UsageError, match=r"several such jobs .*http://other\.invalid; /v1/responses at http://127"):
            held(job, **given)


@pytest.mark.parametrize(
    "given", [{"endpoint": "/v1/completions"}, {"provider": "openai"}, {**OTHER, "endpoint": CHAT}]
)
def test_a_job_that_is_not_there_is_told_with_those_that_are(job: Job, given: Any) -> None:
    noted(job)
    with pytest.raises(UsageError, match=r"no such job .*/v1/chat/completions at http://127"):
        held(job, **given)


def test_where_no_store_is_none_is_made(job: Job) -> None:
    with pytest.raises(UsageError, match="no store"):
        held(job)
    assert not (job.folder / "store").exists()


@pytest.mark.parametrize("url", ["http://me:secret@host.invalid/v1", "http://secret@host.invalid/v1"])
def test_a_note_holds_no_secret(job: Job, url: str) -> None:
    opened = noted(job, base_url=url)
    assert b"secret" not in opened.store.read(layout.job(opened.space))
    assert held(job, provider="generic", base_url=url).space == opened.space

"""Downloads from a server that breaks off, changes its mind, ignores ranges, or lies about sizes."""

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from embedfill.errors import MissingError, ProviderError, RefusedError, UnreachableError
from embedfill.providers.client import BatchClient
from tests.provider_fixtures import Provider, Reply, Request, Script, cut, drop, refuse, reset, say

CONTENT = "/files/.*/content"
DATA = random.Random(1).randbytes(300_000)


@pytest.fixture
def file_id(provider: Provider) -> str:
    return provider.add_file(DATA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "output.jsonl"


@pytest.fixture
def get(client: BatchClient, file_id: str, path: Path) -> Callable[[], bytes]:
    """Downloads, checks that nothing but the file is left, and gives its bytes."""
    path.parent.mkdir()

    def run() -> bytes:
        client.download(file_id, path)
        assert [found.name for found in path.parent.iterdir()] == [path.name]
        return path.read_bytes()

    return run


def ranges(provider: Provider) -> list[str | None]:
    return [request.headers.get("range") for request in provider.asked("GET", CONTENT)]


def test_asks_for_the_bytes_as_they_are(get: Callable[[], bytes], provider: Provider) -> None:
    assert get() == DATA
    (request,) = provider.asked("GET", CONTENT)
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


def test_an_empty_file(client: BatchClient, provider: Provider, tmp_path: Path) -> None:
    client.download(provider.add_file(b""), tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_goes_on_where_it_was_cut_three_times(get: Callable[[], bytes], provider: Provider) -> None:
    provider.script("GET", CONTENT, cut(100_000), cut(50_000), cut(1))
    assert get() == DATA
    assert ranges(provider) == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert all(request.headers["if-range"] for request in provider.asked("GET", CONTENT)[1:])


def test_a_download_that_gets_on_is_not_given_up(get: Callable[[], bytes], provider: Provider) -> None:
    provider.script("GET", CONTENT, *[cut(20_000)] * 14)
    assert get() == DATA
    assert provider.count("GET", CONTENT) == 15


def test_a_download_that_stands_still_is_given_up(get: Callable[[], bytes], provider: Provider) -> None:
    provider.script("GET", CONTENT, cut(20_000), *[cut(0)] * 50)
    with pytest.raises(UnreachableError, match="broke off"):
        get()
    assert provider.count("GET", CONTENT) <= 2 * 6


@pytest.mark.parametrize("trouble", [drop, reset, refuse(429, retry_after_ms="1"), refuse(503), say(b"busy", 502)])
def test_trouble_between_two_pieces(get: Callable[[], bytes], provider: Provider, trouble: Script) -> None:
    provider.script("GET", CONTENT, cut(1000), trouble, cut(2000), trouble)
    assert get() == DATA
    assert ranges(provider) == [None, "bytes=1000-", "bytes=1000-", "bytes=3000-", "bytes=3000-"]


def test_a_killed_download_is_gone_on_from_by_the_next_process(
    client: BatchClient, provider: Provider, file_id: str, path: Path
) -> None:
    path.parent.mkdir()
    provider.script("GET", CONTENT, cut(200_000), *[drop] * 11)
    with pytest.raises(UnreachableError):
        client.download(file_id, path)
    assert not path.exists()
    with BatchClient(provider.url) as other:
        other.download(file_id, path)
    assert path.read_bytes() == DATA
    assert ranges(provider)[-1] == "bytes=200000-"


def test_a_download_that_was_whole_when_it_was_killed_is_not_asked_for_again(
    get: Callable[[], bytes], provider: Provider, path: Path
) -> None:
    path.with_name(path.name + ".part").write_bytes(DATA)
    path.with_name(path.name + ".etag").write_text('"x"')
    assert get() == DATA
    assert provider.count("GET", CONTENT) == 0


def test_a_file_that_changed_is_begun_anew(get: Callable[[], bytes], provider: Provider, file_id: str) -> None:
    """If-Range makes the server send the whole new file."""

    def change(provider: Provider, request: Request) -> Reply:
        provider.files[file_id] = DATA[::-1]
        return provider.handle(request)

    provider.script("GET", CONTENT, cut(100_000), change)
    assert get() == DATA[::-1]


def test_a_range_of_a_changed_file_is_not_taken(get: Callable[[], bytes], provider: Provider, file_id: str) -> None:
    """A server that does not know If-Range sends a range of what is there now."""

    def change(provider: Provider, request: Request) -> Reply:
        provider.files[file_id] = DATA[::-1]
        return provider.handle(Request("GET", request.path, {}, {"range": request.headers["range"]}, b""))

    provider.script("GET", CONTENT, cut(100_000), change)
    assert get() == DATA[::-1]


def test_a_server_that_ignores_ranges(get: Callable[[], bytes], provider: Provider) -> None:
    def whole(provider: Provider, request: Request) -> Reply:
        return provider.handle(Request("GET", request.path, {}, {}, b""))

    provider.script("GET", CONTENT, cut(100_000), whole)
    assert get() == DATA


@pytest.mark.parametrize("start", [0, 99_999, 100_001, 250_000])
def test_another_range_than_was_asked(get: Callable[[], bytes], provider: Provider, start: int) -> None:
    def other(provider: Provider, request: Request) -> Reply:
        return provider.handle(Request("GET", request.path, {}, {"range": f"bytes={start}-"}, b""))

    provider.script("GET", CONTENT, cut(100_000), other)
    assert get() == DATA
    assert ranges(provider) == [None, "bytes=100000-", None]


@pytest.mark.parametrize("content_range", ["", "bytes */*", "bytes 100000", "lines 100000-1/2", "bytes x-1/2"])
def test_a_range_that_does_not_say_which(get: Callable[[], bytes], provider: Provider, content_range: str) -> None:
    provider.script("GET", CONTENT, cut(100_000), say(DATA[100_000:], 206, Content_Range=content_range))
    assert get() == DATA


def test_a_range_that_nobody_asked_for(get: Callable[[], bytes], provider: Provider) -> None:
    provider.script("GET", CONTENT, say(DATA[5:], 206, Content_Range=f"bytes 5-{len(DATA) - 1}/{len(DATA)}"))
    assert get() == DATA


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_it_begins_anew(get: Callable[[], bytes], provider: Provider, etag: str) -> None:
    provider.script("GET", CONTENT, cut(100_000, ETag=etag), cut(50_000, ETag=etag))
    assert get() == DATA
    assert ranges(provider) == [None, None, None]


def test_a_part_file_longer_than_the_file_is_begun_anew(
    get: Callable[[], bytes], provider: Provider, path: Path
) -> None:
    path.with_name(path.name + ".part").write_bytes(DATA + b"more")
    path.with_name(path.name + ".etag").write_text('"x"')
    provider.script("GET", CONTENT, say(b"", 416))
    assert get() == DATA


def test_an_answer_shorter_than_the_file_is_not_taken_as_whole(get: Callable[[], bytes], provider: Provider) -> None:
    """Content-Length agrees with what came, the File's `bytes` does not."""
    provider.script("GET", CONTENT, say(DATA[:1000], ETag='"x"'))
    assert get() == DATA
    assert provider.count("GET", CONTENT) == 2  # its rest, of another ETag, comes as the whole


def test_a_file_that_stays_short_is_refused(
    client: BatchClient, provider: Provider, file_id: str, tmp_path: Path
) -> None:
    provider.script("GET", CONTENT, *[say(DATA[:1000])] * 100)
    with pytest.raises(UnreachableError, match=r"1,000 of 300,000 bytes"):
        client.download(file_id, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_longer_than_stated_is_refused(
    client: BatchClient, provider: Provider, file_id: str, tmp_path: Path
) -> None:
    provider.script("GET", CONTENT, say(DATA + b"x"))
    with pytest.raises(ProviderError, match=r"300,001 bytes where .* 300,000"):
        client.download(file_id, tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []


def test_content_length_is_checked_where_the_file_states_no_size(
    client: BatchClient, provider: Provider, file_id: str, tmp_path: Path
) -> None:
    provider.script("GET", f"/files/{file_id}", say(b'{"id": "%s", "bytes": 0}' % file_id.encode()))
    provider.script("GET", CONTENT, cut(1000), cut(1000, ETag=""))
    client.download(file_id, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize("route", ["/files/[^/]*", CONTENT])
def test_a_file_that_is_gone(client: BatchClient, provider: Provider, file_id: str, path: Path, route: str) -> None:
    path.parent.mkdir()
    provider.script("GET", route, refuse(404))
    with pytest.raises(MissingError, match=file_id):
        client.download(file_id, path)
    assert list(path.parent.iterdir()) == []


def test_a_refusal_is_told_in_the_providers_words(
    client: BatchClient, provider: Provider, file_id: str, tmp_path: Path
) -> None:
    provider.script("GET", CONTENT, refuse(403, "not_allowed", "this file is of another project"))
    with pytest.raises(RefusedError, match="another project"):
        client.download(file_id, tmp_path / "x")


def test_a_redirect_is_followed_and_the_key_stays_behind(provider: Provider, file_id: str, tmp_path: Path) -> None:
    elsewhere = provider.url.replace("127.0.0.1", "localhost")
    there = provider.add_file(DATA)
    provider.script("GET", f"/files/{file_id}/content", say(b"", 302, Location=f"{elsewhere}/files/{there}/content"))
    with BatchClient(provider.url, SecretStr("sk-secret")) as client:
        client.download(file_id, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    first, second = provider.asked("GET", CONTENT)
    assert "authorization" in first.headers and "authorization" not in second.headers


def test_memory_stays_flat_while_it_is_cut_and_goes_on(client: BatchClient, provider: Provider, tmp_path: Path) -> None:
    """The server is in this process too: what it holds is there before the measurement begins."""
    data = DATA * 100
    file_id = provider.add_file(data)
    provider.script("GET", CONTENT, *[cut(9_000_000)] * 3)
    tracemalloc.start()
    try:
        client.download(file_id, tmp_path / "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "x").read_bytes() == data
    assert ranges(provider)[1:] == ["bytes=9000000-", "bytes=18000000-", "bytes=27000000-"]
    assert peak < 40_000_000  # slices of the body on the server's side: at most one whole; the client adds few MB


def test_nothing_waits_in_these_tests(get: Callable[[], bytes], provider: Provider) -> None:
    provider.script("GET", CONTENT, *[refuse(500)] * 5)
    start = time.monotonic()
    get()
    assert time.monotonic() - start < 2

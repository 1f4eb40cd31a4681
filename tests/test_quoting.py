"""Names are data: quoted one to one where a view cannot carry them; no text of users is markup."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intervmerge.quoting import as_file, as_key, as_markdown, as_text, without_secrets

QUOTINGS = {"file": as_file, "key": as_key}
NAMES = st.text(st.characters(), max_size=80) | st.text("./%:aA \u2116\ud800", max_size=90) | st.text(min_size=150)


@pytest.mark.parametrize("quote", QUOTINGS.values(), ids=QUOTINGS)
@given(names=st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_two_names_stay_two(quote: Callable[[str], str], names: list[str]) -> None:
    assert len({quote(name) for name in names}) == len(names)


@pytest.mark.parametrize("quote", QUOTINGS.values(), ids=QUOTINGS)
@given(name=NAMES)
def test_what_is_quoted_is_no_other_name_quoted(quote: Callable[[str], str], name: str) -> None:
    again = quote(quote(name))
    assert again == quote(name) if quote(name) == name else again != quote(name)


@given(name=NAMES)
def test_a_key_is_one_that_mlflow_takes(name: str) -> None:
    key = f"test_accuracy/{as_key(name)}"
    assert re.fullmatch(r"[/\w.\- :]*", key)
    assert len(key) <= 250
    assert key.count("/") == 1
    assert key.split("/")[1] not in ("", ".", "..")


@given(name=NAMES)
def test_a_file_is_one_below_its_folder(name: str) -> None:
    file = as_file(name)
    assert not set(file) & set("/\0\n")
    assert file not in ("", ".", "..")
    assert len(file.encode()) <= 255


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("mini8", "mini8", "mini8"),
        ("ViT-B/32", "ViT-B%2F32", "ViT-B:2F32"),
        ("C# (digits)", "C# (digits)", "C:23 :28digits:29"),
        ("100%", "100%25", "100:25"),
        ("..", "%2E%2E", ":2E:2E"),
        ("", "%", ":"),
    ],
)
def test_names_stay_readable(name: str, file: str, key: str) -> None:
    assert (as_file(name), as_key(name)) == (file, key)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\rb", r"a\rb"),
        ("\u202eright", r"\u202eright"),
        ("caf\udce9", r"caf\udce9"),
        ("two\nlines\tof № [b]", "two\nlines\tof № [b]"),
    ],
)
def test_a_text_leaves_the_terminal_as_it_is(text: str, shown: str) -> None:
    assert as_text(text) == shown


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a | b", r"a \| b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("[click](http://x)", r"\[click\](http://x)"),
        ("- item\n# head", r"\- item \# head"),
        ("1. first", r"1\. first"),
        ("plain, of 0.3 (λ)", "plain, of 0.3 (λ)"),
    ],
)
def test_a_text_is_no_markdown(text: str, markdown: str) -> None:
    assert as_markdown(text) == markdown


@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:hunter2@host:5000/x",
        "https://hunter2@host",
        "postgresql+psycopg2://ann:hun/ter2@host/db",
        "mysql://ann:hunter2@a,b/db?sslpassword=hunter2&x=1",
        "http://host/?token=hunter2",
        "http://host/?a=1&X-Amz-Signature=hunter2#end",
        "could not reach 'http://ann:hunter2@host' or http://bob:hunter2@other: no",
    ],
)
def test_a_uri_tells_no_password(uri: str) -> None:
    said = without_secrets(uri)
    assert "hun" not in said
    assert "***" in said


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:////a/b c.db", "https://host/a?b=c", "databricks"])
def test_a_uri_without_secrets_is_said_as_it_is(uri: str) -> None:
    assert without_secrets(uri) == uri

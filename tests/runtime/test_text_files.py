"""Text and JSON of users: read, or one message about what is wrong."""

import pytest

from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json, read_json, read_text


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
  path = tmp_path / "a.json"
  path.write_bytes(b"\xef\xbb\xbf" + '{"name": "Käfer"}'.encode())
  assert read_text(path).startswith("{")
  assert read_json(path) == {"name": "Käfer"}
  for content in (path.read_bytes(), path.read_bytes().decode()):
    assert parse_json(content, dict) == {"name": "Käfer"}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"[" * 100_000, "nested too deeply"),
    (b"{", "Expecting property name"),
    (b"[1]", "found a list, needed an object"),
    (b"null", "found null, needed an object"),
    (b"9" * 5000, "Exceeds the limit"),
    (b'"\xff"', "UTF-8"),
    (b'{"b": {"a": 1, "a": 2}}', "'a' is given twice"),
  ],
)
def test_bad_json_is_one_message(tmp_path, content, words):
  path = tmp_path / "a.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=words) as error:
    read_json(path, dict)
  assert "a.json" in str(error.value)


def test_what_cannot_be_read_is_named(tmp_path):
  for path, words in ((tmp_path, "directory"), (tmp_path / "x", "No such")):
    with pytest.raises(UserError, match=f"{path}.*{words}"):
      read_text(path)

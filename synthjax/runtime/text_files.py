"""Reads the text and the JSON that people and other programs have written."""

import collections
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from synthjax.runtime.errors import UserError

_KINDS = {dict: "an object", list: "a list", str: "a text"}


def read_text(path: epath.PathLike, what: str = "") -> str:
  """Returns the text of a file, without a byte order mark.

  Args:
    path: of the file.
    what: the file is, for messages.

  Raises:
    UserError: if it is not there, cannot be read, or is not UTF-8.
  """
  name = f"{what} {path}".lstrip()
  try:
    return epath.Path(path).expanduser().read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"Cannot read {name}: {error}. Save it as UTF-8.") from None
  except OSError as error:
    raise UserError(f"Cannot read {name}: {error.strerror}.") from None


def parse_json(
  content: str | bytes,
  kind: type = object,
  *,
  constant: Callable[[str], Any] | None = None,
) -> Any:
  """Returns the value of a JSON text, with or without a byte order mark.

  Args:
    content: the text, or its bytes.
    kind: dict or list, if it must be one.
    constant: what NaN, Infinity and -Infinity become; floats by default.

  Raises:
    ValueError: about whatever is wrong with it, and fields given twice. `json`
      alone raises others too, such as RecursionError about lists in lists.
  """
  if isinstance(content, bytes):
    content = content.decode(json.detect_encoding(content), "surrogatepass")
  try:
    value = _decoder(constant).decode(content.removeprefix("\ufeff"))
  except RecursionError:
    raise ValueError("it is nested too deeply") from None
  if not isinstance(value, kind):
    found = f"a {type(value).__name__}".replace("a NoneType", "null")
    raise ValueError(f"found {found}, needed {_KINDS[kind]}")
  return value


@functools.cache  # as the rows of a file are read one by one
def _decoder(constant: Callable[[str], Any] | None) -> json.JSONDecoder:
  return json.JSONDecoder(object_pairs_hook=_object, parse_constant=constant)


def _object(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the dict of an object, of which `json` alone takes the last."""
  made = dict(fields)
  if len(made) < len(fields):
    counts = collections.Counter(name for name, _ in fields)
    raise ValueError(f"{counts.most_common(1)[0][0]!r} is given twice")
  return made


def read_json(path: epath.PathLike, kind: type = object) -> Any:
  """Returns the value of a JSON file; see `parse_json`.

  Raises:
    UserError: as `read_text`, or about what is wrong with the JSON.
  """
  text = read_text(path)
  try:
    return parse_json(text, kind)
  except ValueError as error:
    raise UserError(
      f"{path} is no good JSON ({error}): correct it, or copy it again."
    ) from None

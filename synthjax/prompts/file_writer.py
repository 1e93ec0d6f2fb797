"""Sentences of a file, by any other language model or by people."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from etils import epath

from synthjax.prompts.sentences import HAS_SLOT, Writing
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json, read_text
from synthjax.weights import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(Writing):
  """Where the sentences are."""

  # JSON lines, each with a "class_name" and a "text", as prompts.jsonl has.
  path: str
  sentence_template: Annotated[str, HAS_SLOT] = "{}"


def check(fields: Fields) -> None:
  """Reads the file.

  Raises:
    UserError: as `read`.
  """
  read(fields.path)


def identify(fields: Fields) -> dict[str, Any]:
  """Returns plain data that identifies the sentences."""
  return {"writer": "file", "path": files.sha256(epath.Path(fields.path))}


def read(path: str) -> dict[str, list[str]]:
  """Returns the texts by the name of their class.

  Raises:
    UserError: if there is no such file, or listing every line that is wrong.
  """
  texts, problems = {}, []
  for number, line in enumerate(read_text(path).splitlines(), start=1):
    if not line.strip():
      continue
    try:
      row = parse_json(line, dict)
      name, text = row["class_name"], row["text"]
      if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError("class_name and text must be texts")
    except KeyError as error:
      problems.append(f"line {number}: no {error}")
    except ValueError as error:
      problems.append(f"line {number}: {error}")
    else:
      texts.setdefault(name, []).append(" ".join(text.split()))
  if problems:
    listed = "\n  ".join(problems[:20])
    raise UserError(
      f"config.prompts.writer.path={path}: each line must be a JSON object "
      f'with a "class_name" and a "text":\n  {listed}'
    )
  return texts


def load(fields: Fields, *, seed: int):
  """Returns a `sentences.Sample`: sentence i of a class is the file's.

  The topics are names of classes.

  Raises:
    UserError: as `read`; and the Sample, about classes without a text.
  """
  del seed  # which ones are drawn is chosen by `sentences.write`
  texts = read(fields.path)

  def sample(topics: Sequence[str], numbers: Sequence[int]) -> list[str | None]:
    if lacking := [t for t in dict.fromkeys(topics) if t not in texts]:
      raise UserError(
        f"{fields.path} has no texts of {len(lacking)} classes: "
        f"{', '.join(map(repr, lacking[:20]))}. It has those of "
        f"{', '.join(map(repr, [*texts][:20]))}."
      )
    return [
      texts[topic][number] if number < len(texts[topic]) else None
      for topic, number in zip(topics, numbers, strict=True)
    ]

  return sample

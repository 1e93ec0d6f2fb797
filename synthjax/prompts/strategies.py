"""Prompts: the texts from which the generator draws each class.

A row is a Prompt; a file of them has one JSON object on each line.
"""

import array
import dataclasses
import hashlib
import json
import mmap
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated.plan import prompt_id
from synthjax.prompts import grammar as grammars
from synthjax.runtime import artifacts, buckets
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

FILE = "prompts.jsonl"


class Prompt(NamedTuple):
  """A text for one class."""

  id: str  # of `plan.prompt_id`
  label: int
  class_name: str  # of `LabelSpace.class_names`, which differ
  text: str
  strategy: str  # a key of STRATEGIES


def basic(space: Any, c: Any, **_):
  """Writes the class into the first template: "a photo of a [CLASS]"."""
  return [space.sentence(space.prompts[0], c)]


def template(space: Any, c: Any, **_):
  """Writes the class into every template."""
  return list(dict.fromkeys(space.sentence(t, c) for t in space.prompts))


def enhanced(
  space: Any,
  c: Any,
  *,
  per_class: int,
  grammar: Any,
  written: Mapping[int, Sequence[str]] | None,
  rng: np.random.Generator,
):
  """Writes the related words into a grammar; without any, the class itself.

  The texts of a language model about the class, if given, take their place.
  """
  del space
  if written is not None:
    return list(written[c.id])
  words = c.related or [c.described]
  return grammars.enhance(words, per_class, grammar=grammar, rng=rng)


STRATEGIES: Mapping[str, Callable[..., list[str]]] = {
  "basic": basic,
  "template": template,
  "enhanced": enhanced,
}


def make(
  space: Any,
  *,
  strategies: Sequence[str],
  per_class: int,
  grammar: str | grammars.Grammar,
  written: Mapping[int, Sequence[str]] | None = None,
  seed: int,
) -> list[Prompt]:
  """Writes the prompts of every class.

  The texts of a class depend on its name, its words and the seed, and not on
  which other classes there are.

  Args:
    space: of labels; its prompts have one {} each for the class.
    strategies: keys of STRATEGIES.
    per_class: texts of "enhanced"; it may find fewer.
    grammar: of "enhanced".
    written: the texts of "enhanced" by label, instead of a grammar.
    seed: of its choices.

  Returns:
    The rows by strategy, class and index.

  Raises:
    UserError: about templates without one {}.
  """
  if wrong := [text for text in space.prompts if text.count("{}") != 1]:
    raise UserError(f"Templates need one {{}} for the class; found {wrong}.")
  rows = []
  for strategy in strategies:
    for c, name in zip(space.classes, space.class_names, strict=True):
      texts = STRATEGIES[strategy](
        space,
        c,
        per_class=per_class,
        grammar=grammar,
        written=written,
        rng=class_rng(seed, name),
      )
      rows += [
        Prompt(prompt_id(strategy, c.id, i), c.id, name, text, strategy)
        for i, text in enumerate(texts)
      ]
  return rows


def write(folder: epath.PathLike, rows: Sequence[Prompt]) -> None:
  """Writes prompts.jsonl."""
  lines = [json.dumps(row._asdict(), ensure_ascii=False) for row in rows]
  with artifacts.replace(folder, FILE) as path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Prompts(Sequence[Prompt]):
  """The prompts of a file, each read on access."""

  data: bytes | mmap.mmap  # of the file
  ends: np.ndarray  # int64 [n + 1]: where each line ends, after 0
  groups: Mapping[str, Mapping[int, np.ndarray]]  # see `group`

  def __len__(self) -> int:
    return len(self.ends) - 1

  def __getitem__(self, index: int) -> Prompt:
    index = range(len(self))[index]  # with its errors
    first, last = self.ends[index : index + 2]
    return Prompt(**parse_json(self.data[first:last], dict))


def open_prompts(path: epath.PathLike) -> Prompts:
  """Opens the prompts.jsonl of a complete artifact, and checks every line.

  Raises:
    UserError: if the folder is not complete, if the file is not the one that
      was written, or listing every line that is no prompt.
  """
  path = epath.Path(path)
  artifacts.verify(path.parent)
  ends, labels, strategies = array.array("q", [0]), array.array("q"), []
  problems, seen = [], set()
  data = _map(path)
  while ends[-1] < len(data):
    end = data.find(b"\n", ends[-1]) + 1 or len(data)
    try:
      row = _read_row(data[ends[-1] : end])
      # Hashes alone, as there may be a million ids.
      if (key := hash(row["id"])) in seen:
        raise ValueError(f"the id {row['id']!r} is that of an earlier line")
      seen.add(key)
      labels.append(row["label"])
      strategies.append(sys.intern(row["strategy"]))
    except ValueError as error:
      problems.append(f"line {len(ends)}: {error}")
    ends.append(end)
  if problems:
    listed = "\n  ".join(problems[:20])
    raise UserError(
      f"{path} is damaged:\n  {listed}\nDelete {path.parent} yourself and run "
      "the task `prompts` again."
    )
  return Prompts(data, np.array(ends), group(strategies, labels))


def group(
  strategies: Sequence[str], labels: Sequence[int]
) -> dict[str, dict[int, np.ndarray]]:
  """Sorts prompts by strategy, in order of appearance, and by label.

  Returns:
    The indices of the prompts, ascending, by strategy and label.
  """
  of_strategy, labels = np.array(strategies, object), np.asarray(labels, int)
  groups: dict[str, dict[int, np.ndarray]] = {}
  for strategy in dict.fromkeys(strategies):
    rows = np.flatnonzero(of_strategy == strategy)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    classes, first = np.unique(labels[rows], return_index=True)
    by_class = np.split(rows, first[1:])
    groups[strategy] = dict(zip(classes.tolist(), by_class, strict=True))
  return groups


def _map(path: epath.Path) -> bytes | mmap.mmap:
  """Returns the bytes of a file; those of a local one stay on the disk."""
  if buckets.is_bucket(path) or not path.stat().length:
    return path.read_bytes()
  with open(path, "rb") as file:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_row(line: bytes) -> dict[str, Any]:
  row = parse_json(line, dict)
  if set(row) != set(Prompt._fields):
    raise ValueError(f"needed the keys {', '.join(Prompt._fields)}")
  for key, kind in Prompt.__annotations__.items():
    if type(row[key]) is not kind:
      raise ValueError(f"{key} must be of type {kind.__name__}")
  return row


def class_rng(seed: int, name: str) -> np.random.Generator:
  """Returns the random numbers of a class; other classes change nothing."""
  digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:8], "big"))

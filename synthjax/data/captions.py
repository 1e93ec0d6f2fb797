"""Captioned drawings: what the embedded generator and encoder learn from."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from synthjax.data import embedded
from synthjax.errors import UserError


def open_captioned(
  split: str, *, leave_out: Sequence[str] = ()
) -> embedded.Source:
  """Opens a split without some categories.

  Args:
    split: a key of `embedded.SPLITS`.
    leave_out: Unicode categories, such as "Symbols".

  Raises:
    UserError: about a category that no concept has.
  """
  concepts = embedded.concepts()
  known = sorted({concept.category for concept in concepts})
  if unknown := sorted(set(leave_out) - set(known)):
    raise UserError(f"leave_out={unknown} are not known; choose from {known}.")
  source = embedded.open_split(split)
  kept = [
    i
    for i, (_, _, concept) in enumerate(source.rows)
    if concepts[concept].category not in leave_out
  ]
  return dataclasses.replace(
    source,
    rows=tuple(source.rows[i] for i in kept),
    labels=tuple(source.labels[i] for i in kept),
  )


def name_more(example: dict, rng: np.random.Generator, *, share: float) -> dict:
  """Forgets an example's keywords, so that its caption is its name.

  Args:
    example: with `phrases`, the name first.
    rng: of this example.
    share: of the examples.
  """
  if rng.random() < share:
    return example | {"phrases": example["phrases"][:1]}
  return example


def digest() -> str:
  """Returns the SHA-256 of the embedded set."""
  whole = hashlib.sha256()
  for name in ("concepts.json", "images.zip"):
    whole.update((embedded.FOLDER / name).read_bytes())
  return whole.hexdigest()

"""Real labelled images, with the labels of a label space."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.data import captions, embedded, sources
from synthjax.data.shards import Example
from synthjax.errors import UserError


def open_real(block: Mapping[str, Any], space: Any) -> Sequence[Example]:
  """Opens what a config's block of plain data describes.

  Args:
    block: `kind`, a key of `sources.SOURCES`, "embedded" where it is left out;
      and the fields of that source. A "folder" has the classes' names for its
      folders unless it lists `classes`.
    space: the label space.
  """
  return _open(block, space)


def check_real(block: Mapping[str, Any], space: Any) -> None:
  """Raises what opening would, before hours are spent; decodes no image.

  TFDS is left out, as it would download the data set.
  """
  if block.get("kind", "embedded") != "tfds":
    _open(block, space)


def _open(block: Mapping[str, Any], space: Any) -> Sequence[Example]:
  fields = dict(block)
  kind = fields.pop("kind", "embedded")
  if kind == "embedded":
    if "split" not in fields or len(fields) > 1:
      raise UserError(
        f"Embedded images are asked for by {dict(block)}; allowed is split=, "
        f"one of {', '.join(embedded.SPLITS)}."
      )
    return embedded.open_split(fields["split"], space=space)
  if kind == "folder":
    fields.setdefault("classes", {c.name: c.id for c in space.classes})
  return sources.open_source(kind, **fields)


def identify(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns plain data that tells one set of real images from another.

  Only the embedded set is hashed; of others the description must do, as to
  read them all at every start would take too long.
  """
  if block.get("kind", "embedded") != "embedded":
    return dict(block)
  return dict(block) | {"images": captions.digest()}

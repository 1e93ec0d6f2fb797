"""The files of a dataset card."""

import hashlib
import json
from typing import Any

from etils import epath

from synthjax.report.card import contact_sheet, croissant
from synthjax.report.card import readme as dataset_card
from synthjax.report.card.figures import Drawn
from synthjax.runtime import artifacts

IMAGES, PICTURE = "images.jsonl", "samples.png"


def write(
  folder: epath.PathLike,
  card: dict[str, Any],
  pairs: dict[str, Any],
  drawn: Drawn,
  images: epath.PathLike,
) -> dict[str, int]:
  """Writes all files; returns the rows of each.

  Args:
    folder: of the files.
    card: plain data, to which `files` is added: those of the data set.
    pairs: the images that are near another one.
    drawn: the images.
    images: the complete artifact of the task `generate`.
  """
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in drawn.about]
  labels = [row["label"] for row in drawn.about]
  content = {
    IMAGES: "".join(lines).encode("utf-8", "replace"),
    PICTURE: contact_sheet.draw(drawn.source, labels, len(card["classes"])),
  }
  rows = {IMAGES: len(lines), PICTURE: 0}
  card["files"] = artifacts.load(images)["files"] | {
    name: {
      "rows": rows[name],
      "bytes": len(data),
      "sha256": hashlib.sha256(data).hexdigest(),
    }
    for name, data in content.items()
  }
  card = artifacts.plain(card, "card")
  content |= {
    "card.json": _json(card),
    "pairs.json": _json(pairs),
    "croissant.json": _json(croissant.build(card)),
    "README.md": dataset_card.build(card).encode("utf-8", "replace"),
  }
  for name, data in content.items():
    with artifacts.replace(folder, name) as path:
      path.write_bytes(data)
  return dict.fromkeys(content, 1) | rows


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()

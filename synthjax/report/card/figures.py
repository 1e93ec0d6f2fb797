"""The figures of a dataset card: quality, near duplicates, leakage."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated import scores as stored
from synthjax.data.generated import shards
from synthjax.data.pipeline.codecs import shrink
from synthjax.data.pipeline.rows import Source
from synthjax.encoders import ImageEncoder
from synthjax.evals import diversity, image_quality, neighbours
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter

DRAWN, REAL = "drawn", "real"  # files of features begin with them
EncodeTexts = Callable[[Sequence[str]], np.ndarray]


class Drawn(NamedTuple):
  """All generated images, in the order of the shards, and m to compare."""

  source: Source
  labels: np.ndarray  # [n] int32
  digests: np.ndarray  # [n] bytes: SHA-256 of each file
  kept: np.ndarray | None  # [n] bool; None where nothing was filtered
  chosen: np.ndarray  # [m] int: those that are compared
  features: np.ndarray  # [m, d] float16 of these
  prompts: list[str]  # m
  class_names: Sequence[str]


class Real(NamedTuple):
  """The images to compare with."""

  source: Sequence[Mapping[str, Any]]
  features: np.ndarray  # [n, d]
  labels: np.ndarray  # [n]
  rows: np.ndarray  # [n] int: where they are in the source


def open_drawn(
  folder: epath.PathLike,
  parts: Iterable[stored.Scores],
  kept: np.ndarray | None,
  class_names: Sequence[str],
  chosen: np.ndarray,
  *,
  write: Callable[[bytes], Any],
  write_features: Callable[[np.ndarray], Any] | None = None,
) -> Drawn:
  """Reads what is known of each image, and hashes its file, in one pass.

  Args:
    folder: of the shards.
    parts: the scores of the same images, of which one is held at a time.
    kept: of `Drawn`, as is `chosen`.
    class_names: by label.
    chosen: [m] int, in order.
    write: gets a line of JSON about each image.
    write_features: gets the features [i, d] float16 of all images, in order.

  Raises:
    UserError: if the scores are of other images.
  """
  stored_files = shards.open_shards(folder, decode=False)
  n, start = len(stored_files), 0
  labels, digests = np.zeros(n, np.int32), np.zeros(n, "S32")
  features, prompts, count_on = [], [], counter("card", n)
  for part in parts:
    end = start + len(part.ids)
    if end > n:
      raise _other_scores(folder)
    of_part = slice(*np.searchsorted(chosen, (start, end)))
    features.append(part.features[chosen[of_part] - start])
    compared = set(chosen[of_part].tolist())
    for i, key, p_own in zip(
      range(start, end), part.ids.tolist(), part.p_own.tolist(), strict=True
    ):
      row = stored_files[i]
      if row["id"] != key:
        raise _other_scores(folder)
      digest = hashlib.sha256(row["encoded"])
      labels[i], digests[i] = row["label"], digest.digest()
      if i in compared:
        prompts.append(row["prompt"])
      about = {
        "id": key,
        "label": row["label"],
        "class": class_names[row["label"]],
        "prompt": row["prompt"],
        "seed": row["seed"],
        "p_own": float(f"{p_own:.6g}"),
        "generated": True,
        "sha256": digest.hexdigest(),
      }
      about |= {} if kept is None else {"kept": bool(kept[i])}
      line = json.dumps(about, ensure_ascii=False) + "\n"
      write(line.encode("utf-8", "replace"))
      count_on()
    if write_features:
      write_features(part.features)
    start = end
  if start != n:
    raise _other_scores(folder)
  return Drawn(
    shards.open_shards(folder),
    labels,
    digests,
    kept,
    chosen,
    np.concatenate(features),
    prompts,
    class_names,
  )


def some(n: int, most: int, seed: int) -> np.ndarray:
  """Returns at most `most` of n rows, chosen at random, in order."""
  if n <= most:
    return np.arange(n)
  rng = np.random.default_rng(seed)
  return np.sort(rng.choice(n, most, replace=False))


def quality(
  drawn: Drawn,
  real: Real | None,
  *,
  encode_texts: EncodeTexts,
  class_texts: np.ndarray,
  neighbours: int,
) -> dict[str, Any]:
  """Measures all images, those that were kept, and the real ones.

  Args:
    drawn: the generated images.
    real: those to compare with, if there are any.
    encode_texts: maps texts to features [n, d].
    class_texts: [k, d] features of the text of each class.
    neighbours: k of precision, recall, density and coverage.

  Returns:
    Plain data: `sets`, with `figures` and `by_class` of "all", "kept" and
    "real".
  """
  different, place = np.unique(drawn.prompts, return_inverse=True)
  of_prompts = encode_texts(different.tolist())
  sets = {}
  for name, part in _parts(drawn).items():
    features = drawn.features[part].astype(np.float32)
    labels = drawn.labels[drawn.chosen[part]]
    figures = image_quality.measure(
      features, labels, class_texts, of_prompts[place[part]]
    )
    if real:
      figures |= image_quality.compare(features, real.features, k=neighbours)
    sets[name] = figures
  if real:
    sets["real"] = image_quality.measure(
      real.features, real.labels, class_texts
    )
  return {
    "neighbours": neighbours,
    "compared": len(drawn.chosen),
    "sets": {
      name: {"by_class": figures.pop("by_class"), "figures": figures}
      for name, figures in sets.items()
    },
  }


def duplicates(
  drawn: Drawn,
  *,
  threshold: float,
  limit: int,
  all_features: np.ndarray | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Counts equal files among all images, and near duplicates.

  Args:
    drawn: the images.
    threshold: the least cosine of near duplicates.
    limit: of the pairs to show.
    all_features: [n, d] of all images, to look for near ones among them, as
      `neighbours.assign_cells` does; otherwise only the chosen are compared.

  Returns:
    Counts, and the nearest pairs with their images.
  """
  rows, features, cells = drawn.chosen, drawn.features, None
  if all_features is not None:
    rows, features = np.arange(len(all_features)), all_features
    cells = neighbours.assign_cells(all_features)
  near = neighbours.near_duplicates(
    features, threshold=threshold, limit=limit, cells=cells
  )
  digests = drawn.digests
  pairs = [
    {
      "cosine": float(cosine),
      "same_file": bool(digests[a] == digests[b]),
      "a": _shown(drawn, a),
      "b": _shown(drawn, b),
    }
    for (a, b), cosine in zip(rows[near.pairs], near.cosines, strict=True)
  ]
  return {
    "equal_files": len(digests) - len(np.unique(digests)),
    "threshold": threshold,
    "compared": len(rows),
    "near_pairs": near.num_pairs,
    # So many would go if one of each group stayed.
    "near_more_than_one": len(rows) - len(np.unique(near.groups)),
  } | ({} if cells is None else {"cells": int(cells.max()) + 1}), pairs


def leakage(
  drawn: Drawn,
  real: Real,
  class_names: Sequence[str],
  *,
  threshold: float,
  limit: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Compares each image with the nearest real one, and those among themselves.

  A generated image that copies a real one is nearer to it than any other real
  one is.

  Args:
    drawn: the generated images.
    real: those that something will be measured on.
    class_names: by label.
    threshold: the least cosine of images that are nearly the same.
    limit: of the pairs to show; no real image is in two.

  Returns:
    Figures, and the nearest pairs with their images.
  """
  cosines, nearest = neighbours.nearest_cosines(drawn.features, real.features)
  figures = {
    "real_images": len(real.rows),
    "compared": len(drawn.chosen),
    "threshold": threshold,
    "near": int((cosines >= threshold).sum()),
    "cosine": _quantiles(cosines),
  }
  among = None
  if len(real.rows) > 1:
    among, _ = neighbours.nearest_cosines(real.features)
    figures["cosine_among_real"] = _quantiles(among)
    figures["nearer_than_real"] = float((cosines > among[nearest]).mean())
  order = np.argsort(-cosines, kind="stable")
  _, first = np.unique(nearest[order], return_index=True)
  pairs = []
  for i in order[np.sort(first)[:limit]]:
    row = int(real.rows[nearest[i]])
    image = np.asarray(real.source[row]["image"])
    generated = drawn.source[int(drawn.chosen[i])]["image"]
    pair = {
      "cosine": float(cosines[i]),
      "same_pixels": bool(np.array_equal(image, generated)),
      "a": _shown(drawn, drawn.chosen[i]),
      "b": {
        "id": f"real image {row}",
        "class": class_names[int(real.labels[nearest[i]])],
        "image": _data_uri(image),
      },
    }
    if among is not None:
      pair["nearest_real"] = float(among[nearest[i]])
    pairs.append(pair)
  return figures, pairs


def _quantiles(x: np.ndarray) -> dict[str, float]:
  quantiles = {"median": 0.5, "p99": 0.99, "max": 1.0}
  return {name: float(np.quantile(x, q)) for name, q in quantiles.items()}


def _shown(drawn: Drawn, index: int) -> dict[str, Any]:
  row = drawn.source[int(index)]
  return {
    "id": row["id"],
    "class": drawn.class_names[row["label"]],
    "prompt": row["prompt"],
    "image": _data_uri(row["image"]),
  }


def _data_uri(image: np.ndarray) -> str:
  """Encodes an image, uint8 [h, w, 3], for a page that opens from disk."""
  mime, data = shrink(image)
  return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _other_scores(folder: epath.PathLike) -> UserError:
  return UserError(
    f"The scores are not of the images in {folder}: delete the folder `score` "
    "beside it yourself, and run the task `score` again."
  )


def headline(card: Mapping[str, Any]) -> str:
  """Returns the main figures of a card, in a line."""
  figures = card["quality"]["sets"]["all"]["figures"]
  shown = [
    f"{name} {figures[name]:.3g}"
    for name in ("frechet", "precision", "recall", "clip_score")
    if figures.get(name) is not None
  ]
  near = card["duplicates"]["near_more_than_one"]
  return f"{', '.join(shown)}; {near:,} near duplicates"


# --- the figures by further encoders, which know no texts ---------------------


def measure(
  drawn: Drawn,
  real: Real | None,
  encoder: ImageEncoder,
  *,
  neighbours: int,
  folder: epath.PathLike,
) -> tuple[dict[str, Any], dict[str, int]]:
  """Measures the images that are compared, and the real ones.

  Features are stored as they are computed, and not computed again.

  Args:
    drawn: the generated images.
    real: those to compare with, if there are any.
    encoder: of both.
    neighbours: k of precision, recall, density and coverage.
    folder: of the files of features.

  Returns:
    The figures of "all", "kept" and "real" images, as plain data; and the rows
    of each file.
  """

  features, files = encode(
    drawn.source, drawn.chosen, encoder, DRAWN, folder=folder
  )
  of_real = None
  if real:
    of_real, real_files = encode(
      real.source, real.rows, encoder, REAL, folder=folder
    )
    files |= real_files
  sets = {
    name: _figures(features[part], of_real, neighbours)
    for name, part in _parts(drawn).items()
  }
  if real:
    sets["real"] = _figures(of_real, None, neighbours)
  return {name: {"figures": figures} for name, figures in sets.items()}, files


def encode(
  source: Sequence[Mapping[str, Any]],
  rows: Sequence[int],
  encoder: Any,
  kind: str,
  *,
  folder: epath.PathLike,
) -> tuple[np.ndarray, dict[str, int]]:
  """Encodes rows of images, or reads their features if they are stored.

  Args:
    source: of the images.
    rows: where they are in it.
    encoder: an `Encoder` or `ImageEncoder`.
    kind: DRAWN or REAL.
    folder: of the files of features.

  Returns:
    Features float32 [n, d], and the rows of each file.
  """
  features, _, files = stored.encode_source(
    Source(len(rows), lambda i: source[int(rows[i])]),
    encoder.encode_images,
    identity=json.dumps(encoder.identity, sort_keys=True),
    folder=folder,
    fit=encoder.fit,
    kind=kind,
  )
  return features, files


def _figures(
  features: np.ndarray, real: np.ndarray | None, neighbours: int
) -> dict[str, float | int | None]:
  vendi = diversity.vendi_score(features) if len(features) else None
  figures = {"images": len(features), "vendi": vendi}
  if real is not None:
    figures |= image_quality.compare(features, real, k=neighbours)
  return figures


def _parts(drawn: Drawn) -> dict[str, np.ndarray]:
  """Returns the sets to measure: rows of `drawn.chosen`, bool [m]."""
  parts = {"all": np.full(len(drawn.chosen), True)}
  if drawn.kept is not None:
    parts["kept"] = drawn.kept[drawn.chosen]
  return parts

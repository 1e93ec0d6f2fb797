"""Scores of images: an encoder's features and class probabilities on disk.

A part holds the scores of one image shard, and appears whole. It says of which
bytes it was made, so that a repaired shard is scored again alone. Features are
kept in float16, un-normalised: a new rule or another head needs no encoding.
"""

import hashlib
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated.plan import ImageId
from synthjax.data.pipeline import given
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter
from synthjax.runtime.threads import count_cores, in_threads

TEXT = "text.npz"
_STORED = ("text_features", "logit_scale")  # of Texts
# An npz of scores is not compressed, and of few bytes may be packed as it is.
_MAX_PACKING, _MAX_SMALL = 16, 1 << 26
_FEW_CHUNKS = 4  # encoded in too short a time to show progress
CHUNK_SIZE = 1024  # images of a file of features of real images, or others


class IdsOnDisk:
  """Ids [n] in a file without a name, so that memory holds one at a time.

  Iterators share the file: one must have ended before the next one begins.
  """

  def __init__(self) -> None:
    self._file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n")
    self._count = 0

  def extend(self, ids: Sequence[str]) -> None:
    self._file.writelines(f"{image_id}\n" for image_id in ids)
    self._count += len(ids)

  def __len__(self) -> int:
    return self._count

  def __iter__(self) -> Iterator[str]:
    self._file.seek(0)
    for line in self._file:
      yield line[:-1]


class Scores(NamedTuple):
  """Rows in the order of the image shards."""

  ids: np.ndarray | IdsOnDisk  # [n] str; the latter for `filters.select`
  labels: np.ndarray  # [n] int32
  features: np.ndarray  # [n, d] float16, of any length
  probs: np.ndarray  # [n, k] float16
  p_own: np.ndarray  # [n] float32: the probability of the label, not rounded


class Texts(NamedTuple):
  """The encoded sentences about the classes of a label space."""

  text_features: np.ndarray  # [k, t, d] float32: each class in each template
  logit_scale: float  # the factor on cosines, already exp
  # [k, d] float32: those of the filter, if not the first template; not stored
  filter_features: np.ndarray | None = None


def part_name(index: int, num_parts: int) -> str:
  """Returns the file name of the scores of a shard."""
  return f"scores-{index:05d}-of-{num_parts:05d}.npz"


def make_scores(
  ids: Sequence[str],
  labels: Sequence[int],
  features: np.ndarray,
  texts: Texts,
) -> Scores:
  """Classifies features by one text for each class, that of the filter.

  Args:
    ids: [n].
    labels: [n] in 0..k-1.
    features: [n, d].
    texts: of the k classes.

  Raises:
    UserError: about labels that are not those of the features or the classes.
  """
  labels = given.labels(
    "labels",
    labels,
    count=len(features),
    num_classes=len(texts.text_features),
  )
  features = np.asarray(features, np.float64)
  classes = texts.filter_features
  classes = texts.text_features[:, 0] if classes is None else classes
  logits = (
    texts.logit_scale * unit(features) @ unit(classes.astype(np.float64)).T
  )  # [n, k]
  probs = np.exp(logits - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  p_own = probs[np.arange(len(labels)), labels]
  return Scores(
    np.asarray(ids, str),
    labels,
    features.astype(np.float16),
    probs.astype(np.float16),
    p_own.astype(np.float32),
  )


def score_images(
  encoder: Any,
  space: Any,
  images: Sequence[np.ndarray],
  labels: Sequence[int],
  ids: Sequence[str] | None = None,
) -> Scores:
  """Encodes images, and classifies them by the texts of their classes.

  Args:
    encoder: an `encoders.Encoder`.
    space: the label space, of k classes.
    images: uint8, an array [n, h, w, 3] or a list of [h, w, 3].
    labels: [n] in 0..k-1.
    ids: [n], each the text of an `ImageId`; by default numbered.

  Raises:
    UserError: about what is no image, or labels that do not fit.
  """
  texts = encode_classes(encoder.encode_texts, encoder.logit_scale, space)
  features = encoder.encode_images(images)
  if ids is None:
    ids = [str(ImageId("given", x, 0, 0, i)) for i, x in enumerate(labels)]
  return make_scores(ids, labels, features, texts)


def encode_classes(
  encode_texts: Callable[[Sequence[str]], np.ndarray],
  logit_scale: float,
  space: Any,
) -> Texts:
  """Encodes every class in every template, and in the text of the filter.

  Raises:
    UserError: about what is no label space, or two classes of one text.
  """
  if not hasattr(space, "classes"):
    raise UserError(
      f"space={space!r:.80} is no label space: synthjax.load_space makes one "
      "of a list of names, a file, or the name of a built-in one."
    )
  texts = [space.sentence(t, c) for c in space.classes for t in space.templates]
  features = encode_texts(texts)
  shape = len(space.classes), len(space.templates), -1
  features = features.reshape(shape)
  _check_different(space, texts, features)
  for_filter = [space.filter_text(c) for c in space.classes]
  if for_filter == texts[:: len(space.templates)]:
    return Texts(features, logit_scale)
  return Texts(features, logit_scale, encode_texts(for_filter))


def _check_different(
  space: Any, texts: Sequence[str], features: np.ndarray
) -> None:
  """Checks that different texts [k * t] have different features [k, t, d].

  Raises:
    UserError: naming two classes that an encoder takes for one.
  """
  seen: dict[bytes, int] = {}
  for label, of_class in enumerate(features):
    first, count = seen.setdefault(of_class.tobytes(), label), len(of_class)
    ours, others = (texts[i * count : (i + 1) * count] for i in (label, first))
    if [t.casefold() for t in ours] != [t.casefold() for t in others]:
      raise UserError(
        f"The encoder takes the texts {ours[0]!r} and {others[0]!r} for one, "
        "as it reads no more than their beginnings. Make the descriptions of "
        "these classes shorter, or say what differs first."
      )


def write_part(
  folder: epath.PathLike, name: str, scores: Scores, made_of: str
) -> None:
  """Writes the scores of a shard; the same scores give the same bytes.

  Args:
    folder: of the parts.
    name: of `part_name`.
    scores: of the images of the shard.
    made_of: the SHA-256 (hex) of the shard that was read.
  """
  with artifacts.replace(folder, name) as path:
    np.savez(path, **scores._asdict(), made_of=made_of)


def drop_changed(folder: epath.PathLike, now: Mapping[str, str]) -> None:
  """Removes the parts of shards that have changed since they were scored.

  Args:
    folder: of the parts; some may be missing.
    now: the SHA-256 (hex) of the shard of each part, by the part's name.

  Raises:
    UserError: if a part is not what the manifest beside it says.
  """
  folder = epath.Path(folder)
  listed = artifacts.listed_in(folder)

  def drop(name):
    path = folder / name
    try:
      changed = path.exists() and _made_of(path, listed) != now[name]
    except (FileNotFoundError, UserError):
      if path.exists():
        raise
      return  # where there are no locks, another process has removed it
    if changed:
      path.unlink(missing_ok=True)

  in_threads(drop, list(now), threads=count_cores())


def _made_of(path: epath.Path, listed: artifacts.Listed) -> str:
  """Returns of what a part was made, "" if this is not known."""
  try:
    artifacts.check_file(path, listed)
  except UserError:
    artifacts.check_file(path)  # another process may have made it again since
  try:
    with path.open("rb") as file:
      return str(load_arrays(file, ["made_of"])["made_of"])
  except ValueError:  # of an older version, or of a full disk
    return ""


def read_part(path: epath.PathLike) -> Scores:
  """Reads the scores of a shard."""
  return Scores(**read_arrays(path, Scores._fields))


def write_texts(folder: epath.PathLike, texts: Texts) -> None:
  """Writes text.npz."""
  with artifacts.replace(folder, TEXT) as path:
    np.savez(path, **{name: getattr(texts, name) for name in _STORED})


def read_texts(folder: epath.PathLike) -> Texts:
  """Reads text.npz."""
  arrays = read_arrays(epath.Path(folder) / TEXT, _STORED)
  return Texts(arrays["text_features"], float(arrays["logit_scale"]))


def read(
  folder: epath.PathLike,
  only: Sequence[str] = Scores._fields,
  *,
  ids_on_disk: bool = False,
) -> Scores:
  """Reads all parts of the complete artifact of the task `score`.

  Args:
    folder: of the artifact.
    only: the columns that are needed; the others are None. Features and
      probabilities of 4 million images take 20 GB.
    ids_on_disk: makes the ids `IdsOnDisk`, as those of millions take more
      memory than labels and probabilities do.

  Raises:
    UserError: if it is not complete, or a part is missing or damaged.
  """
  parts, ids = [], IdsOnDisk() if ids_on_disk else None
  for part in read_parts(folder, only):
    columns = {name: getattr(part, name) for name in only}
    if ids is not None:
      ids.extend(columns.pop("ids").tolist())
    parts.append(columns)
  columns = {
    name: np.concatenate([part.pop(name) for part in parts])
    for name in [*parts[0]]
  }
  columns |= {} if ids is None else {"ids": ids}
  return Scores(**dict.fromkeys(Scores._fields) | columns)


def read_parts(
  folder: epath.PathLike, only: Sequence[str] = Scores._fields
) -> Iterator[Scores]:
  """Yields the parts in their order; see `read`."""
  folder = epath.Path(folder)
  listed = artifacts.load(folder)["files"]
  for name in sorted(listed.keys() - {TEXT}):
    columns = read_arrays(folder / name, only, listed)
    yield Scores(**dict.fromkeys(Scores._fields) | columns)


def check_inputs(folder: epath.PathLike, **expected: Any) -> None:
  """Checks that scores were made of the present inputs.

  Args:
    folder: the complete artifact of the task `score`. Its images lie beside it,
      in `generate`, unless they were removed.
    **expected: entries of its specification, such as the encoder's identity.

  Raises:
    UserError: naming the inputs that have changed.
  """
  folder = epath.Path(folder)
  images, spec = folder.parent / "generate", artifacts.load(folder)["spec"]
  if (images / artifacts.MANIFEST).exists():
    expected["images"] = artifacts.digest(images)
  expected = specifications.plain(expected)
  if other := [key for key in expected if spec.get(key) != expected[key]]:
    raise UserError(
      f"The scores in {folder} were made with other {' and '.join(other)} than "
      "there are now. Run `score` again: it renews those of images that were "
      f"repaired. Otherwise put the old ones back, or delete {folder} yourself "
      "before."
    )


def read_arrays(
  path: epath.PathLike,
  names: Sequence[str],
  listed: artifacts.Listed | None = None,
) -> dict[str, np.ndarray]:
  """Reads the arrays of an npz file.

  Args:
    path: of the file.
    names: of the arrays.
    listed: as of `artifacts.check_file`.

  Raises:
    UserError: if the file is missing, damaged, or lacks one of them.
  """
  path = epath.Path(path)
  artifacts.check_file(path, listed)
  try:
    with path.open("rb") as file:
      return load_arrays(file, names)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read ({error}). Delete it and "
      f"{artifacts.MANIFEST} beside it yourself: the task "
      f"{path.parent.name!r} makes what is missing again."
    ) from error


def load_arrays(
  file: BinaryIO, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
  """Returns the arrays of an npz file, all by default.

  Raises:
    ValueError: about whatever is wrong with it.
  """
  limit = _MAX_PACKING * file.seek(0, os.SEEK_END) + _MAX_SMALL
  file.seek(0)
  try:
    with np.load(file, allow_pickle=False) as arrays:
      names = names or arrays.files
      members = [
        member
        for member in arrays.zip.infolist()
        if member.filename.removesuffix(".npy") in names
      ]
      size = sum(max(m.file_size, _claimed(arrays.zip, m)) for m in members)
      if size > limit:
        raise ValueError(f"it unpacks to {size:,} bytes, {limit:,} are allowed")
      return {name: arrays[name] for name in names}
  except Exception as error:  # NumPy, zipfile and zlib raise a dozen kinds
    raise ValueError(f"{type(error).__name__}: {error}") from error


def _claimed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
  """Returns the bytes of the array that a member says to hold."""
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    shape, _, dtype = _HEADERS[version](file)
  return math.prod(shape) * dtype.itemsize


_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


# --- real images ------------------------------------------------------------


def encode_source(
  source: Sequence[dict[str, Any]],
  encode: Callable[[Sequence[Any]], np.ndarray],
  *,
  identity: str,
  folder: epath.PathLike,
  fit: Callable[[np.ndarray], Any] = np.asarray,
  chunk_size: int | None = None,
  kind: str = "real",
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
  """Encodes images, or reads the features of an earlier run.

  The file of each chunk is named by the content of its images and by the
  encoder, so that no other image ever gets its features.

  Args:
    source: rows of image uint8 [h, w, 3] and label.
    encode: maps images to features [n, d].
    identity: of the encoder.
    folder: of the files.
    fit: reduces an image, as the encoder's does; all of a chunk are held.
    chunk_size: images of a file; CHUNK_SIZE.
    kind: of the images; the names of the files begin with it.

  Returns:
    features float32 [n, d], rounded to float16 as those on disk; labels int32
    [n]; and the rows of each file.
  """
  features, labels, files = [], [], {}
  chunk_size = chunk_size or CHUNK_SIZE
  listed = artifacts.listed_in(folder)
  few = len(source) <= _FEW_CHUNKS * chunk_size
  count_on = None if few else counter(f"{kind} images", len(source))
  for first in range(0, len(source), chunk_size):
    images, content = [], hashlib.sha256(identity.encode())
    for i in range(first, min(first + chunk_size, len(source))):
      row = source[i]
      image = np.ascontiguousarray(row["image"])
      content.update(repr(image.shape).encode() + image.data)
      images.append(fit(image))
      labels.append(row["label"])
    name = f"{kind}-{content.hexdigest()[:24]}.npz"
    path = epath.Path(folder) / name
    if not path.exists():
      with artifacts.replace(folder, name) as temporary:
        np.savez(temporary, features=encode(images).astype(np.float16))
    features.append(read_arrays(path, ["features"], listed)["features"])
    files[name] = len(images)
    if count_on:
      count_on(len(images))
  return (
    np.concatenate(features).astype(np.float32),
    np.asarray(labels, np.int32),
    files,
  )


def unit(x: np.ndarray) -> np.ndarray:
  """Scales the rows of [n, d] to length 1."""
  return x / np.linalg.norm(x, axis=-1, keepdims=True)

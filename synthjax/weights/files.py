"""Our own files of weights: safetensors with a description in the header."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from synthjax.config import schema
from synthjax.runtime import artifacts, cache, download, hub
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import parse_json
from synthjax.weights import conversion, read, snapshots
from synthjax.weights.catalogue import (
  FOLDERS,
  HUB_GENERATORS,
  RELEASED,
  HubGenerator,
  places,
)


def save_params(
  path: epath.PathLike,
  params: Mapping,
  description: Mapping[str, Any],
  *,
  dtype: str | None = "float32",
) -> None:
  """Writes parameters and the description of their model.

  Args:
    path: of the new file.
    params: nested dicts of arrays.
    description: plain data, such as the model's sizes.
    dtype: of the floats on disk; None keeps float16, all else is float32.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  arrays = {
    # Not np.ascontiguousarray, which gives scalars a dimension.
    name: np.asarray(value, order="C").astype(
      dtype or _on_disk(value), order="C", copy=False
    )
    for name, value in sorted(flat.items())
  }
  header = {"description": json.dumps(description, sort_keys=True)}
  save_arrays(path, arrays, header)


def save_arrays(
  path: epath.PathLike, arrays: Mapping[str, np.ndarray], header: dict[str, str]
) -> None:
  """Writes arrays, which lie in C's order, as safetensors."""
  from safetensors.numpy import save_file

  path = epath.Path(path)
  with replace(path.parent, path.name) as temporary:
    temporary.touch()
    mode = temporary.stat().st_mode
    save_file(arrays, temporary, metadata=header)
    temporary.chmod(mode)  # save_file leaves it readable to its owner alone


def _on_disk(value: Any) -> str:
  return "float16" if np.asarray(value).dtype == np.float16 else "float32"


def load_params(
  path: epath.PathLike, *, dtype: str | None = "float32"
) -> tuple[dict, dict[str, Any]]:
  """Reads a file of `save_params`, one array at a time.

  Args:
    path: of the file, local or `gs://`.
    dtype: of the arrays; None keeps that of the file.

  Returns:
    Nested dicts of arrays, and the description.

  Raises:
    UserError: when the file is missing, damaged, not one of ours, or not what
      the manifest beside it lists.
  """
  with _open(path) as (file, description):
    artifacts.check_file(path)
    arrays = {
      # The file is mapped, so at most this one array is in memory twice.
      name: _as(file.get_tensor(name), dtype)
      for name in file.keys()
    }
  return traverse_util.unflatten_dict(arrays, sep="/"), description


def _as(array: np.ndarray, dtype: str | None) -> np.ndarray:
  return array if dtype is None else array.astype(dtype, copy=False)


def read_description(path: epath.PathLike) -> dict[str, Any]:
  """Reads the description in a file of `save_params`, and no arrays.

  Raises:
    UserError: as `load_params`.
  """
  with _open(path) as (_, description):
    return description


@contextlib.contextmanager
def _open(path: epath.PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
  """Yields the mapped file and its description."""
  from safetensors import SafetensorError, safe_open

  path = epath.Path(path)
  if not path.exists():
    raise UserError(
      f"There are no weights at {path}. Give the path of a .safetensors file "
      "that `train_generator`, `train_clip` or `python -m synthjax.weights` "
      "has written."
    )
  try:
    with _local(path) as local, safe_open(local, framework="numpy") as file:
      yield file, parse_json((file.metadata() or {})["description"], dict)
  except (SafetensorError, ValueError, KeyError, OSError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f"{path} cannot be read as weights ({type(error).__name__}: {error}). "
      "It is cut short, damaged, or was not written by synthjax: fetch or "
      "train it again."
    ) from None


@contextlib.contextmanager
def _local(path: epath.Path) -> Iterator[str]:
  """Yields a local path that can be mapped; for a bucket, that of a copy."""
  if "://" not in str(path):
    yield str(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / path.name
    path.copy(copy)
    yield str(copy)


EMBEDDED = epath.Path(__file__).parent.parent / "embedded"
# The checkpoint of a family that messages suggest.
DEFAULTS = {
  "glide": "glide",
  "noised_clip": "glide_clip",
  "clip": "clip_rn50",
  "siglip": "siglip2_vit_b16",
  "dinov2": "dinov2_vits14",
  "t5": "t5_common_gen",
  "resnet": "resnet50_torchvision",
}


def locate(
  weights: str | None, *, field: str, family: str | Sequence[str]
) -> epath.Path:
  """Returns the path of a weights file, which is converted if need be.

  Args:
    weights: a path, local or gs://, "embedded:NAME" for a file of the package,
      "released:NAME/FILE" for one that `synthjax.weights` has fetched
      ("released:NAME" is enough where NAME has one file of weights), or
      "hf://org/name@revision" for a repository of the Hugging Face hub, or a
      file of it. Released weights, in a local folder or file or on the hub, are
      converted once, into the cache.
    field: of the config, for the message.
    family: of the weights, a key of FAMILIES, FOLDERS or DEFAULTS; or several,
      tried in order. Of a key of FOLDERS it returns the folder.

  Raises:
    UserError: when the field is empty, no such file exists, with the command
      that fetches one, or the weights cannot be fetched or converted.
  """
  families = (family,) if isinstance(family, str) else tuple(family)
  if weights and weights.startswith(hub.SCHEME):
    return _released(weights, families)
  if weights and weights.startswith(cache.RELEASED):
    return epath.Path(cache.fetched(_whole_reference(weights, field)))
  if weights and weights.startswith("embedded:"):
    path = EMBEDDED / "weights" / weights.removeprefix("embedded:")
  else:
    path = epath.Path(weights or "").expanduser()
  if weights and path.exists():
    is_released = "://" not in weights and (path.is_dir() or _is_foreign(path))
    return _released(os.fspath(path), families) if is_released else path
  problem = f"there is no file {path}" if weights else "it is not set"
  name = DEFAULTS.get(families[0], "NAME")
  names = _references(name) if name in RELEASED else ["released:NAME/FILE"]
  raise UserError(
    f"config.{field} must name a weights file, but {problem}. `python -m "
    f"synthjax.weights fetch {name}` fetches and converts released ones, which "
    f"{' or '.join(names)} then names; `python -m synthjax.weights list` lists "
    "all. hf://ORG/NAME names others, of the Hugging Face hub. Or try the same "
    "run in the embedded world, which ships its weights: add :runlocal to the "
    "config."
  )


def _is_foreign(path: epath.Path) -> bool:
  """Returns whether a file is not one of `save_params`, damaged or not."""
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as file:
      return "description" not in (file.metadata() or {})
  except (SafetensorError, OSError):
    return path.suffix != ".safetensors"


def _released(place: str, families: Sequence[str]) -> epath.Path:
  """Returns released weights as a file of `save_params`, or their folder."""
  if families[0] in FOLDERS:
    wanted = schema.resolve(families[0], FOLDERS)
    of_hub = place.startswith(hub.SCHEME)
    if hub.parse(place).inner if of_hub else epath.Path(place).is_file():
      raise UserError(
        f"{place} is no whole folder in diffusers' layout, with configurations "
        "and tokenizers: give that of the same release, or hf://ORG/NAME."
      )
    folder, _ = snapshots.fetch(place, wanted)
    return epath.Path(folder)
  source = snapshots.find_weights(place)
  folder = _converted_folder(source)
  with download.alone(folder) as lock:
    for family in families:
      if (folder / f"{family}.safetensors").exists():
        return epath.Path(folder / f"{family}.safetensors")
    made = conversion.convert(source, families)
    path = folder / f"{made.family}.safetensors"
    save_params(path, made.variables, made.description, dtype=None)
    say(f"{place}: converted to {path}. {made.note}".rstrip())
    lock.unlink(missing_ok=True)
  return epath.Path(path)


def _converted_folder(source: pathlib.Path) -> pathlib.Path:
  """Returns where in the cache the conversions of released weights lie.

  Weights that change, or a config beside them, get another folder.
  """
  configs = [source.parent / name for name in snapshots.CONFIGS]
  paths = [source, *read.parts_of(source), *filter(os.path.isfile, configs)]
  stamps = [
    (os.path.realpath(path), os.stat(path).st_size, os.stat(path).st_mtime_ns)
    for path in paths
  ]
  key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
  folder = cache.weights_folder("converted") / key
  folder.parent.mkdir(parents=True, exist_ok=True)
  return folder


def _whole_reference(weights: str, field: str) -> str:
  """Adds the file to "released:NAME", and checks both names."""
  name, _, file = weights.removeprefix(cache.RELEASED).partition("/")
  if name not in RELEASED:
    raise unknown_names(
      f"released checkpoint (config.{field})", [name], RELEASED
    )
  references = _references(name)
  if not file and len(references) == 1:
    return references[0]
  if weights not in references:
    raise UserError(
      f"config.{field}={weights} names no weights; {name} has "
      f"{' and '.join(references)}."
    )
  return weights


def _references(name: str) -> list[str]:
  """Returns the references to the weights of a released checkpoint."""
  makes = RELEASED[name].makes
  weights = [file for file in makes if file.endswith(".safetensors")]
  return [f"{cache.RELEASED}{name}/{file}" for file in weights]


def sha256(path: epath.PathLike) -> str:
  """Returns the SHA-256 of a file, which identifies its weights.

  Raises:
    UserError: if a manifest beside it has another one.
  """
  return artifacts.sha256(path)


def sha256_of_each(
  paths: Iterable[epath.PathLike], folder: epath.PathLike
) -> dict[str, str]:
  """Returns the SHA-256 of files by their names, as seen from a folder."""
  return {
    pathlib.PurePath(path).relative_to(folder).as_posix(): sha256(path)
    for path in paths
  }


# --- descriptions of files, for dataset cards ---------------------------------

_EMBEDDED = "embedded:"
_CATALOGUED = ("what", "licence")


def describe(reference: str | None, digest: str) -> dict[str, Any]:
  """Describes the file that a config names.

  Args:
    reference: as `locate` takes it, "embedded:NAME", or None where it is
      unknown.
    digest: SHA-256 of the file that was used. A reference to a file with
      another hash, or to none, is ignored; one of the hub is not looked up.

  Returns:
    `name`, `what` and `licence`, None where unknown, and `sha256`.
  """
  about = dict.fromkeys(("name", "what", "licence")) | {"sha256": digest}
  if reference and reference.startswith(hub.SCHEME):
    about |= {"name": reference, "what": "of the Hugging Face hub"}
    known = _catalogued(reference)
    return about | {k: getattr(known, k) for k in _CATALOGUED if known}
  if reference and (folder := epath.Path(reference)).is_dir():
    return about | {"name": folder.name, "licence": _of_model_card(folder)}
  path = reference and _find(reference)
  if not path or sha256(path) != digest:
    return about
  about["name"] = reference
  if reference.startswith(_EMBEDDED):
    about |= {"what": "of synthjax's embedded world", "licence": "Apache-2.0"}
  elif reference.startswith(cache.RELEASED):
    released = RELEASED[reference.removeprefix(cache.RELEASED).split("/")[0]]
    about |= {"what": released.what, "licence": released.licence}
  else:  # a path on one machine is of no use to others
    about["name"] = path.name
  return about


def _of_model_card(folder: epath.Path) -> str | None:
  """Returns the licence that the model card in a folder names, if it does."""
  card = folder / "README.md"
  text = card.read_bytes().decode("utf-8", "replace") if card.exists() else ""
  head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
  named = re.findall(
    r"^(license|license_name): *(\S.*?) *$", head[1] if head else "", re.M
  )
  # The name is that of "other".
  return max(named)[1].strip("'\"") if named else None


def _catalogued(reference: str) -> HubGenerator | None:
  """Returns the generator that has a place of the hub, or its repository."""
  asked = hub.parse(reference)
  found = None
  for name, generator in HUB_GENERATORS.items():
    for place in map(hub.parse, places(name)):
      if place.repository != asked.repository:
        continue
      if place.inner == asked.inner:
        return generator
      found = found or generator
  return found


def artwork() -> list[dict[str, str]]:
  """Lists the icon sets that the embedded models were trained on."""
  concepts = json.loads((EMBEDDED / "concepts.json").read_text())
  keys = ("title", "author", "license", "license_url", "url")
  return [
    {k: source[k] for k in keys} for source in concepts["sources"].values()
  ]


def identified(
  identity: Mapping[str, Any], block: Mapping[str, Any], path: str
) -> list[dict[str, Any]]:
  """Describes every file whose hash is in an identity.

  Args:
    identity: plain data, where a value of 64 hexadecimal digits is a SHA-256.
    block: of the config, with the references of the files by the same names; or
      the reference of a folder.
    path: dotted, of both.
  """
  described = []
  for key, value in identity.items():
    # Of a folder, one reference is that of all its files.
    of_block = block.get(key) if hasattr(block, "get") else block
    if hasattr(value, "items"):
      described += identified(value, of_block or {}, f"{path}.{key}")
    elif isinstance(value, str) and _is_hash(value):
      reference = of_block if isinstance(of_block, str) else None
      described.append({"field": f"{path}.{key}"} | describe(reference, value))
  return described


def settings(identity: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an identity without hashes."""
  rest = {
    key: settings(value) if hasattr(value, "items") else value
    for key, value in identity.items()
    if not (isinstance(value, str) and _is_hash(value))
  }
  return {key: value for key, value in rest.items() if value != {}}


def _is_hash(value: str) -> bool:
  return len(value) == 64 and not set(value) - set("0123456789abcdef")


def _find(reference: str) -> epath.Path | None:
  """Returns the file of a reference, if it exists."""
  if reference.startswith(cache.RELEASED):
    try:
      return locate(reference, field="weights", family="clip")
    except UserError:  # no longer there
      return None
  places = [epath.Path(reference)]
  if reference.startswith(_EMBEDDED):
    name = reference.removeprefix(_EMBEDDED)
    places = [EMBEDDED / "weights" / name, EMBEDDED / name]
  return next((place for place in places if place.is_file()), None)

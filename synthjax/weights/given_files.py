"""Converts files of released weights that a user brings."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.runtime import cache
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.tokenizers import bpe, gemma
from synthjax.weights import conversion, files, snapshots
from synthjax.weights.catalogue import FAMILIES, RELEASED
from synthjax.weights.snapshots import CONFIGS, is_index

_TEXTS = (".json", ".bpe", ".gz", ".model", ".txt")  # that hold no weights
# Forms of CLIP's vocabulary in folders of Hugging Face, and what of `bpe` reads
# each.
_TOKENIZERS = {
  ("tokenizer.json",): "load",
  ("vocab.json", "merges.txt"): "read",
}


def convert_files(
  name: str,
  given: Sequence[str],
  output: str | None,
  options: Mapping[str, Any],
) -> None:
  """Converts files that the user brings.

  Args:
    name: of their checkpoint.
    given: their paths, which end in the published names, possibly with ".gz";
      a checkpoint's only file of weights may have any name and format, and
      "PUBLISHED=PATH" gives any file. For a CLIP also its config, and its
      tokenizer as Hugging Face has it.
    output: a folder; None is that of fetched checkpoints in the cache.
    options: arguments of the family's `from_released`.

  Raises:
    UserError: about files that are missing, superfluous, or do not convert.
  """
  if options and RELEASED[name].family != "clip":
    raise UserError(f"{name} is no CLIP: it takes no --{' --'.join(options)}.")
  paths = _match(name, given)
  folder = pathlib.Path(output).expanduser() if output else None
  folder = folder or cache.weights_folder(name)
  for file in RELEASED[name].files:
    path = paths.get(file.name)
    if path and path.name == file.name and file.sha256:
      digest = files.sha256(path)
      if not digest.startswith(file.sha256):
        print(
          f"{path} differs from the published file (SHA-256 {digest}, "
          f"published {file.sha256}): converted as it is."
        )
  for made, missing in make(name, paths, folder, options).items():
    print(f"{made} was not made: it needs {' and '.join(missing)}.")


# The tokenizers that lie beside weights: their forms, for `bpe.locate`.
_BESIDE = {
  "clip": tuple(_TOKENIZERS),
  "siglip": gemma.FORMS,
  "t5": (("spiece.model",),),
}


def convert_place(
  kind: str, place: str, output: str, options: Mapping[str, Any]
) -> None:
  """Converts weights of any name, with the tokenizer beside them.

  Args:
    kind: of FAMILIES.
    place: a file, a folder or "hf://org/name@revision".
    output: a folder for KIND.safetensors and the tokenizer.
    options: arguments of the family's `from_released`.

  Raises:
    UserError: about an unknown kind, or weights that are not there or do not
      convert.
  """
  if kind not in FAMILIES:
    raise unknown_names("kind of weights", [kind], FAMILIES)
  source = snapshots.find_weights(place)
  made = conversion.convert(source, [kind], options)
  folder = pathlib.Path(output).expanduser()
  path = folder / f"{kind}.safetensors"
  files.save_params(path, made.variables, made.description, dtype=None)
  print("\n".join(filter(None, (made.note, str(path)))))
  if kind not in _BESIDE:
    return
  try:
    given = bpe.beside(place, _BESIDE[kind])
  except UserError as error:
    return print(f"No tokenizer was made: {error}")
  is_bpe = kind == "clip"
  name = "tokenizer.json" if is_bpe else given.name
  text = bpe.load(given).bpe.to_str().encode() if is_bpe else given.read_bytes()
  with replace(folder, name) as temporary:
    temporary.write_bytes(text)
  print(folder / name)


def _match(name: str, given: Sequence[str]) -> dict[str, pathlib.Path]:
  """Returns the paths by the names of the publisher's files."""
  published = [file.name for file in RELEASED[name].files]
  weights = [n for n in published if not n.endswith(_TEXTS)]
  allowed = list(published)
  if RELEASED[name].family == "clip":
    allowed += [*CONFIGS, *(n for names in _TOKENIZERS for n in names)]
  if RELEASED[name].family == "siglip":
    allowed += CONFIGS
  matched, problems = {}, []
  for text in given:
    said, _, rest = text.partition("=")
    said = said if rest and said in allowed else None
    path = pathlib.Path(rest if said else text).expanduser()
    options = [n for n in allowed if path.name in (n, f"{n}.gz")]
    is_text = path.name.endswith(_TEXTS) and not is_index(path.name)
    if not options and len(weights) == 1 and not is_text:
      options = weights  # of any name and format
    options = [said] if said else options
    if not path.is_file():
      problems.append(f"There is no file {path}.")
    elif not options or options[0] in matched:
      problems.append(f"{path} is not one of them, or one too many.")
    else:
      matched[options[0]] = path
  if problems or not matched:
    raise UserError(
      f"`convert {name}` takes {', '.join(allowed)}, by these names, or as "
      f"{published[0]}=FILE. "
      + (" ".join(problems) or "Give the files after the name.")
    )
  return matched


def make(
  name: str,
  paths: Mapping[str, pathlib.Path],
  folder: pathlib.Path,
  options: Mapping[str, Any] | None = None,
) -> dict[str, list[str]]:
  """Makes all files whose sources are given; returns what the others lack."""
  entry, lacking = RELEASED[name], {}
  for made, about in entry.makes.items():
    sources, build = about.sources, None
    if made == "tokenizer.json" and entry.family != "siglip":
      build = "clip_bpe" if len(sources) == 1 else "glide_bpe"
      for names, other in _TOKENIZERS.items():
        if {*names} <= {*paths}:
          sources, build = names, other
    if missing := [source for source in sources if source not in paths]:
      lacking[made] = missing
      continue
    given = [paths[source] for source in sources]
    if made.endswith(".safetensors"):
      _convert_weights(name, sources[0], paths, folder / made, options or {})
    elif build:
      with replace(folder, made) as temporary:
        temporary.write_text(getattr(bpe, build)(*given).bpe.to_str())
    elif given[0].resolve() != (folder / made).resolve():
      with replace(folder, made) as temporary:
        shutil.copyfile(given[0], temporary)
    print(f"{folder / made}: {(folder / made).stat().st_size / 1e6:,.1f} MB")
  return lacking


def _convert_weights(
  name: str,
  file: str,
  paths: Mapping[str, pathlib.Path],
  path: pathlib.Path,
  options: Mapping[str, Any],
) -> None:
  """Converts one network; float16 stays float16, all else is float32."""
  entry = RELEASED[name]
  made = conversion.convert(
    paths[file],
    [entry.family],
    options,
    name=file,
    model=entry.model,
    configs=paths,
  )
  if made.note:
    print(made.note)
  files.save_params(path, made.variables, made.description, dtype=None)

"""Converts the publishers' files to the files that configs name."""

import importlib
import pathlib
import shutil
from collections.abc import Mapping, Sequence

from synthjax.runtime import cache
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.weights.catalogue import FAMILIES, RELEASED

_TEXTS = (".json", ".bpe", ".gz", ".model")  # files that hold no weights


def convert_files(name: str, given: Sequence[str], output: str | None) -> None:
  """Converts files that the user brings.

  Args:
    name: of their checkpoint.
    given: their paths, which end in the published names, possibly with ".gz";
      a checkpoint's only file of weights may have any name and format.
    output: a folder; None is that of fetched checkpoints in the cache.

  Raises:
    UserError: about files that are missing, superfluous, or do not convert.
  """
  from synthjax.weights import files

  paths = _match(name, [pathlib.Path(path).expanduser() for path in given])
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
  for made, missing in make(name, paths, folder).items():
    print(f"{made} was not made: it needs {' and '.join(missing)}.")
  if output is None:
    tell_use(name)


def _match(name: str, paths: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
  """Returns the paths by the names of the publisher's files."""
  published = [file.name for file in RELEASED[name].files]
  weights = [n for n in published if not n.endswith(_TEXTS)]
  matched, problems = {}, []
  for path in paths:
    options = [n for n in published if path.name in (n, f"{n}.gz")]
    if not options and len(weights) == 1 and not path.name.endswith(_TEXTS):
      options = weights  # of any name and format
    if not path.is_file():
      problems.append(f"There is no file {path}.")
    elif not options or options[0] in matched:
      problems.append(f"{path} is not one of them, or one too many.")
    else:
      matched[options[0]] = path
  if problems or not paths:
    raise UserError(
      f"`convert {name}` takes {', '.join(published)}, by these names. "
      + (" ".join(problems) or "Give the files after the name.")
    )
  return matched


def make(
  name: str, paths: Mapping[str, pathlib.Path], folder: pathlib.Path
) -> dict[str, list[str]]:
  """Makes all files whose sources are given; returns what the others lack."""
  from synthjax.tokenizers import bpe

  entry, lacking = RELEASED[name], {}
  for made, about in entry.makes.items():
    if missing := [source for source in about.sources if source not in paths]:
      lacking[made] = missing
      continue
    sources = [paths[source] for source in about.sources]
    if made.endswith(".safetensors"):
      (source,) = sources
      _convert_weights(entry.family, about.sources[0], source, folder / made)
    elif made == "tokenizer.json":
      build = bpe.clip_bpe if len(sources) == 1 else bpe.glide_bpe
      with replace(folder, made) as temporary:
        temporary.write_text(build(*sources).bpe.to_str())
    elif sources[0].resolve() != (folder / made).resolve():
      with replace(folder, made) as temporary:
        shutil.copyfile(sources[0], temporary)
    print(f"{folder / made}: {(folder / made).stat().st_size / 1e6:,.1f} MB")
  return lacking


def _convert_weights(
  family: str, name: str, source: pathlib.Path, path: pathlib.Path
) -> None:
  """Converts one network; float16 stays float16, all else is float32."""
  from synthjax.weights import files, read

  module = importlib.import_module(FAMILIES[family])
  try:
    variables, description = module.from_released(read.read_weights(source))
  except UserError as error:
    raise UserError(f"{source} cannot be converted: {error}") from error
  description |= {"sources": {name: files.sha256(source)}}
  files.save_params(path, variables, description, dtype=None)


def tell_use(name: str) -> None:
  """Prints how configs name the files that exist."""
  folder = cache.weights_folder(name)
  print(f"In {folder}:")
  for made, about in RELEASED[name].makes.items():
    if (folder / made).exists():
      use = f"--config.{about.field}=" if about.field else ""
      print(f"  {use}{cache.RELEASED}{name}/{made}")

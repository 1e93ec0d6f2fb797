"""Converts the publishers' files to the files that configs name."""

import importlib
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.runtime import cache
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.weights.catalogue import FAMILIES, RELEASED

_TEXTS = (".json", ".bpe", ".gz", ".model", ".txt")  # that hold no weights
_INDEX = ".index.json"  # of weights in several files
# Beside a CLIP's weights in the folders of Hugging Face and open_clip.
_CONFIGS = ("config.json", "open_clip_config.json")
# Forms of CLIP's vocabulary there, and what of `bpe` reads each.
_TOKENIZERS = {
  ("tokenizer.json",): "load",
  ("vocab.json", "merges.txt"): "read",
}
_PART = re.compile(r"-\d+-of-\d+\.")


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
  from synthjax.weights import files

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
  if output is None:
    tell_use(name)


def _match(name: str, given: Sequence[str]) -> dict[str, pathlib.Path]:
  """Returns the paths by the names of the publisher's files."""
  published = [file.name for file in RELEASED[name].files]
  weights = [n for n in published if not n.endswith(_TEXTS)]
  allowed = list(published)
  if RELEASED[name].family == "clip":
    allowed += [*_CONFIGS, *(n for names in _TOKENIZERS for n in names)]
  matched, problems = {}, []
  for text in given:
    said, _, rest = text.partition("=")
    said = said if rest and said in allowed else None
    path = pathlib.Path(rest if said else text).expanduser()
    options = [n for n in allowed if path.name in (n, f"{n}.gz")]
    is_text = path.name.endswith(_TEXTS) and not path.name.endswith(_INDEX)
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
  from synthjax.tokenizers import bpe

  entry, lacking = RELEASED[name], {}
  for made, about in entry.makes.items():
    sources, build = about.sources, None
    if made == "tokenizer.json":
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
  from synthjax.weights import files, read

  entry, source = RELEASED[name], paths[file]
  module, config = importlib.import_module(FAMILIES[entry.family]), None
  whence = "as given" if options else "by OpenAI's rule"
  try:
    if entry.family == "clip":
      beside = [paths.get(n, source.parent / n) for n in _CONFIGS]
      config = next((p for p in beside if p.is_file()), None)
      content = read_json(config, dict) if config else None
      whence = f"by {config}" if config and not options else whence
      options = {"settings": content, "model": entry.model, **options}
    weights, parts = read.read_weights(source), read.parts_of(source)
    variables, description = module.from_released(weights, **options)
  except UserError as error:
    hint = f" (Its config: {config}.)" if config else ""
    if _PART.search(source.name):
      hint += f" It is one of several files: give their index (*{_INDEX})."
    raise UserError(f"{source} cannot be converted: {error}{hint}") from error
  if entry.family == "clip":
    model = {"activation": "quick_gelu"} | description["model"]
    shown = ("vision_heads", "text_heads", "heads", "activation")
    shown = [f"{field}={model[field]}" for field in shown if field in model]
    print(f"{', '.join(shown)}, {whence}.")
  digests = {p.name: files.sha256(p) for p in parts}
  description |= {"sources": {file: files.sha256(source)} | digests}
  files.save_params(path, variables, description, dtype=None)


def tell_use(name: str) -> None:
  """Prints how configs name the files that exist."""
  folder = cache.weights_folder(name)
  print(f"In {folder}:")
  for made, about in RELEASED[name].makes.items():
    if (folder / made).exists():
      use = f"--config.{about.field}=" if about.field else ""
      print(f"  {use}{cache.RELEASED}{name}/{made}")

"""Files of adapters, as diffusers reads them, and the adapters of a batch.

A file holds the low-rank updates of a generator's networks in the layout of
diffusers and PEFT: `unet.<layer>.lora_A.weight` [r, d] and `lora_B.weight`
[e, r], and likewise `text_encoder.`. The scale is in them, so that a reader
without further fields, for which alpha is the rank, adds the same.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from synthjax.data.generated.plan import AdapterGroup
from synthjax.generators import Adaptable, Adapted, Generator
from synthjax.models.lora import Updates, has_updates
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.weights import files, read

_NAMES = {"a": "lora_A", "b": "lora_B"}
GROUPS = "adapters.json"  # of the task `tune_generator`
# Adapters that are kept on the host: 1 GB of those of Stable Diffusion 1.x.
ON_HOST = 64


def to_diffusers(
  adaptable: Adaptable, updates: Updates, scale: float = 1.0
) -> dict[str, np.ndarray]:
  """Returns the weights of a file.

  Args:
    adaptable: of the generator.
    updates: of `adaptable.init`.
    scale: the factor on them.
  """
  weights = {}
  for part, name in _NAMES.items():
    factor = scale if part == "b" else 1.0
    kernels = {
      # The slices lie side by side, as those of a kernel do.
      f"{path}/kernel": factor * np.concatenate(np.asarray(each[part]), axis=-1)
      for path, each in updates.items()
    }
    for torch_name, weight in adaptable.to_released(kernels).items():
      layer = torch_name.removesuffix(".weight")
      weights[f"{layer}.{name}.weight"] = np.ascontiguousarray(weight)
  return weights


def save(
  path: epath.PathLike,
  adaptable: Adaptable,
  updates: Updates,
  scale: float = 1.0,
) -> None:
  """Writes the file of an adapter; see `to_diffusers`.

  Raises:
    UserError: about updates that change nothing.
  """
  path = epath.Path(path)
  if not has_updates(updates):
    raise UserError(
      f"The adapter {path.name} has learned nothing, as all its updates are "
      "0: its images would be those of the generator alone. Give it more steps "
      "(epochs) or a higher rate (optimizer.lr, fewer steps of warmup)."
    )
  weights = to_diffusers(adaptable, updates, scale)
  files.save_arrays(path, weights, {"format": "pt"})


def shapes(adaptable: Adaptable, rank: int) -> Updates:
  """Returns the shapes of updates, for which `init` is traced."""
  draw = functools.partial(adaptable.init, rank)
  return jax.eval_shape(draw, jax.random.key(0))


def from_diffusers(
  adaptable: Adaptable,
  weights: Mapping[str, np.ndarray],
  shapes_of: Callable[[int], Updates] | None = None,
) -> Updates:
  """Undoes `to_diffusers`, whose scale is then 1.

  Args:
    adaptable: of the generator.
    weights: of a file.
    shapes_of: rank -> `shapes`, where they are kept from file to file.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen.
  """
  ranks = [w.shape[0] for name, w in weights.items() if ".lora_A." in name]
  if not ranks:
    raise UserError(
      "There are no weights .lora_A.weight and .lora_B.weight: give a LoRA in "
      "the layout of diffusers and PEFT."
    )
  endings = tuple(f".{name}.weight" for name in _NAMES.values())
  if others := [name for name in weights if not name.endswith(endings)]:
    raise UserError(
      f"There are weights that no adapter here has, such as {others[0]!r}. An "
      "alpha belongs into .lora_B.weight, as the factor alpha / rank: write "
      "the file again that way."
    )
  shapes_of = shapes_of or functools.partial(shapes, adaptable)
  like = shapes_of(ranks[0])
  updates = {path: {} for path in like}
  for part, name in _NAMES.items():
    ending = f".{name}.weight"
    kernels = adaptable.from_released(
      {
        f"{key.removesuffix(ending)}.weight": weight
        for key, weight in weights.items()
        if key.endswith(ending)
      },
      {
        f"{path}/kernel": jax.ShapeDtypeStruct((d, s * e), np.float32)
        for path, each in like.items()
        for s, d, e in [each[part].shape]
      },
    )
    for path, each in like.items():
      count = each[part].shape[0]
      slices = np.split(kernels[f"{path}/kernel"], count, axis=-1)
      updates[path][part] = np.stack(slices)
  return updates


def reader(
  paths: Sequence[epath.PathLike], adaptable: Adaptable
) -> Callable[[int], Updates]:
  """Returns what `Generator.adapted` takes, of files; the latest are kept.

  It raises UserError about files that do not fit, or that change nothing.
  """

  # Tracing takes several times as long as the rest of a small file.
  shapes_of = functools.cache(functools.partial(shapes, adaptable))

  @functools.lru_cache(ON_HOST)
  def read_file(place):
    path = os.fspath(paths[place])
    try:
      updates = from_diffusers(adaptable, read.read_weights(path), shapes_of)
    except UserError as error:
      raise UserError(f"{path} does not fit the generator: {error}") from None
    if not has_updates(updates):
      raise UserError(
        f"All updates in {path} are 0: images drawn with them would be those "
        "of the generator alone. Give a LoRA that has learned something."
      )
    return updates

  return read_file


def check_adaptable(generator: Generator, name: str) -> None:
  """Raises UserError unless updates of a generator can be learned."""
  if generator.adaptable is None:
    raise UserError(
      f"config.generator.name={name!r} has no low-rank updates here: choose "
      "`glide`, or `stable_diffusion` without a distilled UNet."
    )


def write_groups(
  folder: epath.PathLike, groups: Sequence[AdapterGroup]
) -> dict[str, int]:
  """Writes the list of adapters; returns the rows of it and of each file."""
  folder = epath.Path(folder)
  with replace(folder, GROUPS) as path:
    path.write_text(json.dumps([group._asdict() for group in groups], indent=1))
  return {GROUPS: len(groups)} | dict.fromkeys(_files_of(groups), 1)


def read_groups(
  folder: epath.PathLike,
) -> tuple[list[AdapterGroup], list[str]]:
  """Returns the groups of a finished `tune_generator`, and all their files."""
  listed = read_json(epath.Path(folder) / GROUPS, list)
  groups = [AdapterGroup(**each) for each in listed]
  return groups, _files_of(groups)


def _files_of(groups: Sequence[AdapterGroup]) -> list[str]:
  return sorted({n for g in groups for of in g.files for n in of})


def text_of(prompt: str | Adapted) -> str:
  """Returns the text of a prompt, with adapters or without."""
  return prompt if isinstance(prompt, str) else prompt.prompt


def example(read: Callable[[int], Updates] | None) -> str | Adapted:
  """Returns a prompt that takes as much memory as any.

  Args:
    read: see `Generator.adapted`; None without adapters.
  """
  return "" if read is None else Adapted("", (0, 0))  # two, as LoFT mixes


def with_text(prompt: str | Adapted, text: str) -> str | Adapted:
  """Returns another text with the adapters of a prompt."""
  return text if isinstance(prompt, str) else prompt._replace(prompt=text)


def updates_of(
  read: Callable[[int], Updates] | None, prompts: Sequence[str | Adapted]
) -> Updates:
  """Returns the updates [n, ...] of n prompts, none where they are texts."""
  if isinstance(prompts[0], str):
    return {}
  return gather(read, [prompt.adapters for prompt in prompts])


def gather(
  read: Callable[[int], Updates], places: Sequence[Sequence[int]]
) -> Updates:
  """Returns the updates [n, ...] of n images, each the mean of its adapters.

  The mean of m updates of rank r is one of rank m r.

  Args:
    read: see `Generator.adapted`.
    places: [n][m] of each image's adapters.
  """
  rows = {}
  for row in {*map(tuple, places)}:
    each = [read(place) for place in row]
    rows[row] = {
      path: {
        "a": np.concatenate([x[path]["a"] for x in each], axis=-1),
        "b": np.concatenate([x[path]["b"] for x in each], -2) / len(each),
      }
      for path in each[0]
    }
  chosen = [rows[tuple(row)] for row in places]
  return jax.tree.map(lambda *x: np.stack(x), *chosen)

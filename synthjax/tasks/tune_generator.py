"""Learns low-rank updates of a generator from a few real images (LoRA).

Each adapter learns from the shots of a class, or from those of all classes, as
in DataDream (Kim et al. 2024, arXiv 2407.10910), or from one image alone, as in
LoFT (Kim et al. 2025, arXiv 2505.11703). `generate` draws with them.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from synthjax.config import schema
from synthjax.config.schema import (
  Block,
  Count,
  Counts,
  Positive,
  Rule,
  Seeds,
  one_of,
  unique_names,
)
from synthjax.data.generated import plan
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.image_files import to_square
from synthjax.data.pipeline.rows import Example, labels_of
from synthjax.data.real import real_images
from synthjax.generators import (
  Adaptable,
  adapters,
  check_generator,
  load_generator,
)
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered
from synthjax.training import adapting, metrics, optimizer, recipes, resident
from synthjax.training import run as runs

PROCESSES = "all"  # they train as one, and the first one writes
# What one adapter learns from, and how many of them an image is drawn with.
MIXED = {"class": 1, "set": 1, "image": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """Adapters that are compared with others."""

  name: Annotated[str, Rule(str.isidentifier, "letters, digits and _")]
  of: Annotated[str, one_of(MIXED)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneGenerator(runs.Loop):
  """The block `config.tune_generator`; the defaults are DataDream's."""

  methods: Annotated[tuple[Method, ...], unique_names()]
  pool: Block  # real images, for the shots; see `real_images.open_real`
  shots: Counts  # of each class; the images are "lora_<method><shots>"
  seeds: Seeds  # of the shots, and of the first values
  sampler: Annotated[str, one_of(few_shot.SAMPLERS)] = "nested"
  rank: Count = 16
  alpha: Positive = 16.0  # updates count alpha / rank times
  epochs: Count = 200
  batch_size: Count = 8
  together: Count = 1  # adapters that learn in one step, in the memory of all
  optimizer: Annotated[Any, optimizer.OPTIMIZER]

  @property
  def scale(self) -> float:
    """The factor on an update."""
    return self.alpha / self.rank

  def steps(self, num_images: int) -> int:
    """Returns the steps in which an adapter learns from so many images."""
    batch_size = min(self.batch_size, num_images)
    return recipes.count_steps(
      num_images, epochs=self.epochs, batch_size=batch_size
    )

  def batch_sizes(self, num_classes: int) -> dict[str, int]:
    """Returns the batches of all adapters, by what makes them so large."""
    found = {}
    for method in self.methods:
      for shots in self.shots:
        images = {"class": shots, "set": shots * num_classes, "image": 1}
        if (few := images[method.of]) < self.batch_size:
          found[f"methods: images of an adapter of {method.name!r}"] = few
        else:
          found["batch_size"] = self.batch_size
    return found

  def problems(self) -> Iterable[str]:
    try:
      self.optimizer(num_steps=self.steps(1))
    except UserError as error:
      yield str(error)


FIELDS = TuneGenerator


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the generator, and that the pool has shots enough."""
  del workdir
  name = "config.tune_generator"
  fields = schema.read(TuneGenerator, config.tune_generator, name)
  with gathered() as attempt:
    attempt(check_generator, **config.generator.to_dict())
    space = spaces.load_space(config.space)
    sizes = fields.batch_sizes(len(space.classes))
    attempt(meshes.check_devices, name, sizes, fsdp=fields.fsdp)
    check = partial(real_images.check_real, shots=fields.shots)
    attempt(check, fields.pool, space, f"{name}.pool")


class Tools(NamedTuple):
  """What every training uses."""

  fields: TuneGenerator
  folder: epath.Path
  adaptable: Adaptable
  pool: Sequence[Example]
  texts: Sequence[str]  # the prompt of each class


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves a file of each adapter, which diffusers reads, and their list."""
  fields = schema.read(
    TuneGenerator, config.tune_generator, "config.tune_generator"
  )
  block = config.tune_generator.to_dict()
  block.pop("together", None)  # it changes nothing of the result
  space = spaces.load_space(config.space)
  folder = epath.Path(workdir) / "tune_generator"
  generator = load_generator(**config.generator.to_dict())
  adapters.check_adaptable(generator, config.generator.name)
  spec = {
    "tune_generator": block,
    "generator": generator.identity,
    "real": real_images.identify(fields.pool),
    "space": spaces.identify(space),
  } | real_images.identify_files({"pool": fields.pool}, space)
  if artifacts.begin(folder, spec):
    return
  pool = real_images.open_real(fields.pool, space)
  # As real guidance says it, without language enhancement.
  texts = [space.sentence(space.prompts[0], c) for c in space.classes]
  tools = Tools(fields, folder, generator.adaptable, pool, texts)
  groups = []
  for shots in fields.shots:
    for seed in fields.seeds:
      rows = few_shot.draw_by(
        fields.sampler,
        labels_of(pool),
        num_classes=len(space.classes),
        shots=shots,
        seed=seed,
      ).reshape(-1, shots)
      groups += [_learn(tools, each, rows, seed) for each in fields.methods]
  files = adapters.write_groups(folder, groups)
  for path in sorted(folder.glob("*_metrics.jsonl")):
    files[path.name] = len(metrics.read_rows(path))
  artifacts.finish(folder, spec, files)


def _learn(
  tools: Tools, method: Method, rows: np.ndarray, seed: int
) -> plan.Group:
  """Learns a method's adapters from the rows [k, shots] of the pool.

  An adapter whose file is there has been learned before.
  """
  strategy = f"{plan.ADAPTED}{method.name}{rows.shape[1]}"
  labels = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
  shape = {"class": rows.shape, "set": (1, -1), "image": (-1, 1)}[method.of]
  rows, labels = rows.reshape(shape), labels.reshape(shape)
  names = [f"{strategy}-s{seed}-{i}.safetensors" for i in range(len(rows))]
  paths = [tools.folder / name for name in names]
  for first in range(0, len(rows), tools.fields.together):
    numbers = range(len(rows))[first : first + tools.fields.together]
    if all(paths[i].exists() for i in numbers):
      continue
    label = f"{strategy}-s{seed}-{numbers[0]}-{numbers[-1]}"
    part = slice(numbers.start, numbers.stop)
    learned = _train(tools, rows[part], labels[part], numbers, seed, label)
    for i, number in enumerate(numbers):
      updates = jax.tree.map(lambda x, i=i: x[i], learned)
      adapters.save(paths[number], tools.adaptable, updates, tools.fields.scale)
  return plan.Group(
    strategy,
    seed,
    MIXED[method.of],
    prompts=[[text] for text in tools.texts],
    files=[
      [name for name, of in zip(names, labels, strict=True) if label in of]
      for label in range(len(tools.texts))
    ],
  )


def _train(
  tools: Tools,
  rows: np.ndarray,
  labels: np.ndarray,
  numbers: Sequence[int],
  seed: int,
  label: str,
) -> Any:
  """Trains the adapters of rows [c, m] of the pool; they come to the host."""
  fields, adaptable = tools.fields, tools.adaptable
  images = _read_images(tools.pool, rows.flat, adaptable.image_size)
  flat = adaptable.read(images, [tools.texts[i] for i in labels.flat])
  sets = {k: x.reshape(*rows.shape, *x.shape[1:]) for k, x in flat.items()}
  num_steps = fields.steps(rows.shape[1])
  batch_size = min(fields.batch_size, rows.shape[1])

  def loss(frozen, updates, batch, rng):
    scaled = {
      path: {"a": each["a"], "b": fields.scale * each["b"]}
      for path, each in updates.items()
    }
    return adaptable.loss(frozen, scaled, batch, rng)

  state = runs.train(
    adapting.adapting(
      loss,
      partial(adaptable.init, fields.rank),
      fields.optimizer(num_steps=num_steps),
      numbers=numbers,
      seed=seed,
      batch_size=batch_size,
    ),
    resident.Resident({"frozen": adaptable.frozen, "sets": sets}, fields.fsdp),
    fields,
    folder=tools.folder,
    label=label,
    num_steps=num_steps,
    batch_size=batch_size,
    seed=seed,
  )
  return meshes.fetch(state.params)


def _read_images(
  pool: Sequence[Example], rows: Iterable[int], size: int
) -> np.ndarray:
  """Reads rows [n] of the pool: uint8 [n, size, size, 3]."""
  return np.stack(
    [to_square(Image.fromarray(pool[int(row)]["image"]), size) for row in rows]
  )

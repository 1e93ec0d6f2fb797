"""Learns low-rank updates of a generator from a few real images (LoRA).

Each adapter learns from the shots of a class, or from those of all classes, as
in DataDream (Kim et al. 2024, arXiv 2407.10910), or from one image alone, as in
LoFT (Kim et al. 2025, arXiv 2505.11703). `generate` draws with them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
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
  Flag,
  Positive,
  Rule,
  Seeds,
  Text,
  one_of,
  unique_names,
)
from synthjax.data.generated import plan
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.image_files import to_square
from synthjax.data.pipeline.rows import Example, labels_of
from synthjax.data.real import attributes, real_images
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
from synthjax.training import lora, metrics, optimizer, recipes, resident
from synthjax.training import run as runs
from synthjax.training.loop import Objective

MOST_PROMPTS = 500  # of a class, for as many images as DataDream draws
PROCESSES = "all"  # they train as one, and the first one writes
# What one adapter learns from, and how many of them an image is drawn with.
MIXED = {"class": 1, "set": 1, "image": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """Adapters that are compared with others."""

  name: Annotated[str, Rule(str.isidentifier, "letters, digits and _")]
  of: Annotated[str, one_of(MIXED)]
  # Prompts say the background and the pose of each shot; a class is drawn with
  # those of the shots of all classes, as in BOB.
  attributes: Flag = False


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
  # Adapters that learn in one step, split over the devices: at least one on
  # each. Their number changes no result.
  together: Count = 1
  optimizer: Annotated[Any, optimizer.OPTIMIZER]
  # Of the pool, for methods with attributes: a file, see `attributes.read`, or
  # "measured" of embedded images.
  attributes: Text | None = None

  @property
  def scale(self) -> float:
    """The factor on an update."""
    return self.alpha / self.rank

  def steps(self, num_images: int) -> int:
    """Returns the steps in which an adapter learns from so many images."""
    return recipes.count_steps(
      num_images,
      epochs=self.epochs,
      batch_size=self.batch_size_of(num_images),
    )

  def batch_size_of(self, num_images: int) -> int:
    """Returns the images of a step of an adapter."""
    return min(self.batch_size, num_images)

  def problems(self) -> Iterable[str]:
    if not self.attributes:
      for method in self.methods:
        if method.attributes:
          yield (
            f"the method {method.name!r} has attributes: give the file of "
            f"those as attributes, or {attributes.MEASURED!r} of drawings"
          )
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
    attempt(_as_generator, fields, config.generator)
    attempt(check_generator, **config.generator.to_dict())
    space = spaces.load_space(config.space)
    check = partial(real_images.check_real, shots=fields.shots)
    attempt(check, fields.pool, space, f"{name}.pool")
  if fields.attributes:
    _check_attributes(fields, space)


def _check_attributes(fields: TuneGenerator, space: Any) -> None:
  """Raises UserError about a shot of which the attributes are not known."""
  describe = attributes.open_attributes(fields.attributes)
  pool = real_images.open_real(fields.pool, space)
  rows = {
    int(row)
    for shots in fields.shots
    for seed in fields.seeds
    for row in _draw_shots(fields, pool, space, shots, seed).flat
  }
  with gathered() as attempt:
    for row in sorted(rows):
      attempt(describe, pool[row])


def _as_generator(fields: TuneGenerator, block: ConfigDict) -> TuneGenerator:
  """Returns the fields with the `fsdp` of the generator.

  The adapters are split over all devices anyway, and the frozen weights stay
  where the generator has them.
  """
  fsdp = block.get("fsdp", 1)
  if fields.fsdp not in (1, fsdp):
    raise UserError(
      f"config.tune_generator.fsdp={fields.fsdp}, but the weights lie as "
      f"config.generator.fsdp={fsdp} says: set that one, and leave this out."
    )
  return dataclasses.replace(fields, fsdp=fsdp)


class Tools(NamedTuple):
  """What every training uses."""

  fields: TuneGenerator
  folder: epath.Path
  adaptable: Adaptable
  frozen: Any  # its weights, on the devices of all processes
  objective_of: Callable[[int], Objective]  # of adapters of so many images
  pool: Sequence[Example]
  texts: Sequence[str]  # the prompt of each class
  # Of an example; None where no method asks for them.
  describe: Callable[[Example], attributes.Attributes] | None


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves a file of each adapter, which diffusers reads, and their list."""
  fields = schema.read(
    TuneGenerator, config.tune_generator, "config.tune_generator"
  )
  fields = _as_generator(fields, config.generator)
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
  if fields.attributes:
    del block["attributes"]  # wherever the file is
    spec["attributes"] = attributes.identify(fields.attributes)
  if artifacts.begin(folder, spec):
    return
  adaptable = generator.adaptable
  pool = real_images.open_real(fields.pool, space)
  tools = Tools(
    fields,
    folder,
    adaptable,
    meshes.over_processes(adaptable.frozen()),
    # Compiled once for all adapters of as many images.
    functools.cache(partial(_objective, fields, adaptable)),
    pool,
    # As real guidance says it, without language enhancement.
    [space.sentence(space.prompts[0], c) for c in space.classes],
    fields.attributes and attributes.open_attributes(fields.attributes),
  )
  groups = []
  for shots in fields.shots:
    for seed in fields.seeds:
      rows = _draw_shots(fields, pool, space, shots, seed)
      groups += [
        _learn_group(tools, method, rows, seed) for method in fields.methods
      ]
  runs.remove_checkpoints(folder)  # of a run that was killed, too
  files = adapters.write_groups(folder, groups)
  for path in sorted(folder.glob("*_metrics.jsonl")):
    files[path.name] = len(metrics.read_rows(path))
  artifacts.finish(folder, spec, files)


def _draw_shots(
  fields: TuneGenerator,
  pool: Sequence[Example],
  space: Any,
  shots: int,
  seed: int,
) -> np.ndarray:
  """Draws the rows [k, shots] of the pool."""
  options = dict(num_classes=len(space.classes), shots=shots, seed=seed)
  labels = labels_of(pool)
  # CoOp's sampler takes fewer of a class that has too few; this raises.
  few_shot.draw(labels, names=space.class_names, **options)
  return few_shot.draw_by(fields.sampler, labels, **options).reshape(-1, shots)


def _learn_group(
  tools: Tools, method: Method, rows: np.ndarray, seed: int
) -> plan.AdapterGroup:
  """Learns a method's adapters from the rows [k, shots] of the pool.

  An adapter whose file is there has been learned before.
  """
  strategy = f"{plan.ADAPTED}{method.name}{rows.shape[1]}"
  labels = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
  prompts, shown = [[text] for text in tools.texts], {}
  if method.attributes:
    shown = {
      row: tools.describe(tools.pool[row]) for row in rows.ravel().tolist()
    }
    prompts = _marginal_prompts(tools.texts, [*shown.values()], seed)
  texts = np.array(
    [
      attributes.caption(tools.texts[label], shown.get(row, ()))
      for row, label in zip(rows.flat, labels.flat, strict=True)
    ],
    object,
  )
  shape = {"class": rows.shape, "set": (1, -1), "image": (-1, 1)}[method.of]
  rows, labels, texts = (x.reshape(shape) for x in (rows, labels, texts))
  names = [f"{strategy}-s{seed}-{i}.safetensors" for i in range(len(rows))]
  paths = [tools.folder / name for name in names]
  devices = meshes.make_mesh(tools.fields.fsdp).size
  parts, size = _trainings(len(rows), tools.fields.together, devices)
  for numbers in parts:
    if all(paths[i].exists() for i in numbers):
      continue
    label = f"{strategy}-s{seed}-{numbers[0]}-{numbers[-1]}"
    learned = _learn_adapters(
      tools, rows[numbers], texts[numbers], numbers, size, seed, label
    )
    for i, number in enumerate(numbers):
      updates = jax.tree.map(lambda x, i=i: x[i], learned)
      adapters.save(paths[number], tools.adaptable, updates, tools.fields.scale)
    runs.remove_checkpoints(tools.folder, label)
  return plan.AdapterGroup(
    strategy,
    seed,
    MIXED[method.of],
    prompts=prompts,
    files=[
      [name for name, of in zip(names, labels, strict=True) if label in of]
      for label in range(len(tools.texts))
    ],
  )


def _marginal_prompts(
  texts: Sequence[str], shown: Sequence[attributes.Attributes], seed: int
) -> list[list[str]]:
  """Returns prompts of each class, with the attributes of the shots of all.

  Those come in another order for each class, as a class may have fewer images.
  """

  def order(label):
    rng = np.random.default_rng((seed, label))
    return rng.permutation(len(shown))[:MOST_PROMPTS].tolist()

  return [
    [attributes.caption(text, shown[i]) for i in order(label)]
    for label, text in enumerate(texts)
  ]


def _trainings(
  count: int, together: int, devices: int
) -> tuple[list[np.ndarray], int]:
  """Shares adapters out among trainings, as evenly as devices allow.

  Returns:
    The numbers of the adapters of each training, and how many adapters each
    has with those that fill it up: the same for all, and a multiple of the
    devices.
  """
  round_up = lambda n: -(-n // devices) * devices
  least = -(-count // round_up(together))  # trainings
  size = round_up(-(-count // least))
  parts = [
    np.arange(first, min(first + size, count))
    for first in range(0, count, size)
  ]
  return parts, size


def _learn_adapters(
  tools: Tools,
  rows: np.ndarray,
  texts: np.ndarray,
  numbers: np.ndarray,
  size: int,
  seed: int,
  label: str,
) -> Any:
  """Learns adapters from rows [c, m] of the pool, and fetches them.

  The texts [c, m] are the prompts of the rows.

  The last one is learned again where c is below `size`.
  """
  fields, adaptable = tools.fields, tools.adaptable
  images = _read_images(tools.pool, rows.flat, adaptable.image_size)
  flat = adaptable.read(images, [*texts.flat])
  filled = np.minimum(np.arange(size), len(rows) - 1)
  split = meshes.split(meshes.make_mesh(fields.fsdp))
  place = lambda x: jax.device_put(x, split)
  batch = {
    "frozen": tools.frozen,
    "counts": place(np.arange(size) < len(rows)),
    "rows": {
      name: place(x.reshape(*rows.shape, *x.shape[1:])[filled])
      for name, x in flat.items()
    },
  }
  state = runs.train(
    tools.objective_of(rows.shape[1]),
    resident.Resident(batch),
    fields,
    folder=tools.folder,
    label=label,
    num_steps=fields.steps(rows.shape[1]),
    batch_size=len(rows) * fields.batch_size_of(rows.shape[1]),
    seed=seed,
    rngs=lora.keys_of(seed, numbers[filled]),
    split=runs.Split("together", size),
    held=(adaptable.held(), batch),
  )
  return meshes.fetch(state.params)


def _objective(
  fields: TuneGenerator, adaptable: Adaptable, num_images: int
) -> Objective:
  """Returns the learning of adapters, each from so many images."""
  batch_size = fields.batch_size_of(num_images)

  def loss(frozen, updates, rows, rng):
    draw_rng, rng = jax.random.split(rng)
    rows = lora.draw_rows(rows, draw_rng, batch_size)
    scaled = {
      path: {"a": each["a"], "b": fields.scale * each["b"]}
      for path, each in updates.items()
    }
    return adaptable.loss(frozen, scaled, rows, rng)

  return lora.lora_learning(
    loss,
    partial(adaptable.init, fields.rank),
    fields.optimizer(num_steps=fields.steps(num_images)),
  )


def _read_images(
  pool: Sequence[Example], rows: Iterable[int], size: int
) -> np.ndarray:
  """Reads rows [n] of the pool: uint8 [n, size, size, 3]."""
  return np.stack(
    [to_square(Image.fromarray(pool[int(row)]["image"]), size) for row in rows]
  )

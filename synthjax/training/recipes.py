"""How a network learns from images: its fields, and recipes that fill them.

Recipes count in epochs, as papers give them.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax
import numpy as np

from synthjax.config.schema import Count, Positive, one_of
from synthjax.runtime.errors import unknown_names
from synthjax.training import loop, run
from synthjax.training.device_augment import (
  AUGMENTS,
  CROPS,
  Augment,
  make_augment,
)
from synthjax.training.optimizer import OPTIMIZER

# What the paper and the methods that it uses state; lr is that of the batch
# size beside it. "_from_in1k" starts from weights trained on the real IN-1K.
_AWARE = dict(
  epochs=90,
  batch_size=512,
  # The decay is as printed.
  optimizer=dict(name="adamw", lr=1e-4, weight_decay=0.9),
)
_AGNOSTIC = dict(
  epochs=90,
  batch_size=512,
  optimizer=dict(name="sgd", lr=0.2, drops=(30, 60), weight_decay=1e-4),
)
_MOCO = dict(
  epochs=200,
  batch_size=256,
  optimizer=dict(
    name="sgd", lr=0.03, rate="cosine", per_epoch=True, weight_decay=1e-4
  ),
)
_start = lambda recipe, lr: (
  recipe | {"optimizer": recipe["optimizer"] | {"lr": lr}}
)
RECIPES = {
  # Appendix C.5.3 of He et al. (2023): ResNet-50 for CIFAR-100's own classes,
  # and for those of ImageNet.
  "aware": _AWARE,
  "aware_from_in1k": _start(_AWARE, 1e-5),
  "agnostic": _AGNOSTIC,
  "agnostic_from_in1k": _start(_AGNOSTIC, 0.001),
  "transfer_cifar100": dict(
    epochs=200,
    batch_size=128,
    optimizer=dict(
      name="sgd",
      lr=0.003,
      drops=(60, 120, 160),
      drop_factor=0.2,
      weight_decay=5e-4,
    ),
  ),
  # Chen et al. (2020).
  "moco_v2": _MOCO,
  "moco_v2_from_in1k": _start(_MOCO, 0.003),
  # Tian et al. (2023), the authors' command: 1,376 prompts a batch, 6 images of
  # each, and 2e-4 for every 512 images. They decay the class token and the
  # positions of a ViT, too.
  "stablerep": dict(
    epochs=15,
    batch_size=8256,
    optimizer=dict(
      name="adamw",
      lr=3.225e-3,
      warmup_epochs=0.5,
      weight_decay=0.1,
      decay="matrices",
      b2=0.98,
    ),
  ),
  # Touvron et al. (2021): 5e-4 for each 512 images of a batch.
  "deit": dict(
    epochs=300,
    batch_size=1024,
    optimizer=dict(
      name="adamw",
      lr=1e-3,
      rate="timm_cosine",
      per_epoch=True,
      # The authors' code sets the rate after an epoch to that epoch's own: the
      # first value counts twice, and all others one epoch late.
      epoch_lag=1,
      warmup_epochs=5,
      warmup_lr=1e-6,
      min_lr=1e-5,
      weight_decay=0.05,
      decay="matrices",
    ),
    label_smoothing=0.1,
    ema_decay=0.99996,
  ),
  # On small sets, as its maintainers did on CIFAR-10 (DeiT's issue 45); timm's
  # SGD is Nesterov's.
  "deit_finetune": dict(
    epochs=1000,
    batch_size=768,
    optimizer=dict(
      name="sgd",
      lr=0.01,
      nesterov=True,
      rate="timm_cosine",
      per_epoch=True,
      epoch_lag=1,
      warmup_epochs=5,
      warmup_lr=1e-6,
      min_lr=1e-5,
      weight_decay=1e-4,
      decay="matrices",
    ),
    label_smoothing=0.1,
  ),
  # MoCo's transfer to PASCAL VOC by detectron2 (He et al. 2020): 24,000 steps
  # over the 16,551 images of 07 and 12. See `for_batch_size`.
  "voc_detection": dict(
    epochs=24_000 * 16 / 16_551,
    batch_size=16,
    optimizer=dict(
      name="sgd",
      lr=0.02,
      rate="staircase",
      warmup=100,
      weight_decay=1e-4,
      decay="all_but_norms",
    ),
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(run.HostLoop):
  """Fields of every training on images: `fill` gives those of `recipe`."""

  epochs: Positive
  batch_size: Count  # over all processes
  optimizer: Annotated[Any, OPTIMIZER]
  image_size: Count  # px
  augment: str  # a key of `host_augment.VIEWS`; what the pipeline does
  device_augment: Annotated[str, one_of(AUGMENTS)] | None = None
  source_size: Count | None = None  # px of what the device crops
  recipe: Annotated[str, one_of(RECIPES)] | None = None

  @property
  def crops(self) -> bool:
    """Whether the device cuts rectangles out of whole images.

    It does where its recipe has a crop and the pipeline does nothing.
    """
    return self.augment == "none" and self.device_augment in CROPS

  @property
  def delivered_size(self) -> int:
    """The side, in px, of the images that the pipeline delivers."""
    return self.source_size or self.image_size

  def augmenter(self) -> Augment:
    """Returns what the device does to a batch of images."""
    return make_augment(
      self.device_augment or "none",
      crop=self.crops,
      image_size=self.image_size if self.crops else None,
    )

  def trace(self, objective: loop.Objective) -> None:
    """Traces a step on a batch of these fields; see `loop.trace`."""
    n, size = self.batch_size, self.delivered_size
    batch = {
      "image": jax.ShapeDtypeStruct((n, size, size, 3), np.uint8),
      "label": jax.ShapeDtypeStruct((n,), np.int32),
    }
    loop.trace(objective, batch)

  def problems(self) -> Iterable[str]:
    if self.source_size and not self.crops:
      yield (
        "source_size is of images that the device crops: give augment='none' "
        f"and a device_augment of {', '.join(sorted(CROPS))}"
      )


def for_batch_size(recipe: Mapping, batch_size: int) -> dict[str, Any]:
  """Returns a recipe for batches of another size, by the linear rule.

  The rate grows with the batch, and a warm-up in steps is over after as many
  images (Goyal et al. 2017); epochs stay, so that the steps become fewer.
  """
  scale = batch_size / recipe["batch_size"]
  optimizer = dict(recipe["optimizer"])
  optimizer["lr"] *= scale
  if optimizer.get("warmup"):
    optimizer["warmup"] = max(1, round(optimizer["warmup"] / scale))
  return {**recipe, "batch_size": batch_size, "optimizer": optimizer}


def count_steps(num_images: int, *, epochs: float, batch_size: int) -> int:
  """Returns the steps of so many epochs; the last batch of one runs over."""
  return max(1, round(epochs * num_images / batch_size))


def fill(fields: Mapping[str, Any], *, linear: bool = False) -> dict[str, Any]:
  """Returns the fields with those of the recipe that `recipe` names.

  Fields that are given win. An optimizer is filled field by field, unless
  another one is given, which stays as it is. Where the device augments, the
  pipeline does not, unless `augment` says so.

  Args:
    fields: of a config; what a recipe does not know stays.
    linear: fits the recipe to the batch size that is given, by the linear
      rule.

  Raises:
    UserError: for an unknown recipe.
  """
  if fields.get("device_augment") is not None:
    fields = {"augment": "none"} | dict(fields)
  name = fields.get("recipe")
  if name is None:
    return dict(fields)
  if not isinstance(name, str):
    return dict(fields)  # `schema.read` refuses it by its field
  if name not in RECIPES:
    raise unknown_names("recipe", [name], RECIPES)
  recipe = RECIPES[name]
  if linear and fields.get("batch_size"):
    recipe = for_batch_size(recipe, fields["batch_size"])
  given, stated = fields.get("optimizer") or {}, recipe["optimizer"]
  is_block = isinstance(given, Mapping)  # `schema.read` refuses others
  if is_block and given.get("name", stated["name"]) == stated["name"]:
    given = stated | dict(given)
  return recipe | dict(fields) | {"optimizer": given}

"""The fields of pre-training: what they are, and what they say together.

They are those of the task `pretrain`, of one training or of several arms.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from synthjax.runtime.errors import (
  BELOW_ONE,
  BLOCK,
  BLOCK_LIST,
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  POSITIVE,
  SEEDS,
  SHARE,
  TEXT,
  WHOLE,
  UserError,
)
from synthjax.training import device_augment, monitor_fields, recipes

Fields = Mapping[str, Any]

REQUIRED = {
  "model": BLOCK,  # name, and the sizes that shall differ
  "seeds": SEEDS,  # one training each
  "image_size": COUNT,  # px
  "augment": TEXT,  # of data.views.VIEWS; "none" where the device augments
  "epochs": POSITIVE,
  "batch_size": COUNT,
  "optimizer": BLOCK,  # see train.recipe.make_optimizer
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
OPTIONAL = {
  "recipe": TEXT,  # of train.recipe.RECIPES: what is left out below and above
  "objective": TEXT,  # of OBJECTIVES, which have more fields
  "init": TEXT,  # weights to start from, but for the head: path or reference
  "strategy": TEXT,  # of the prompts; none takes the images of all
  "filter": FLAG,  # takes only what `select` has kept
  "num_classes": COUNT,  # trains on the first so many; all by default
  "images_per_class": COUNT,  # trains on so many; all by default
  "arms": BLOCK_LIST,  # several trainings: a name and the fields that differ
  "validation": BLOCK,  # real images that show what was learnt; see data.real
  "test": BLOCK,  # real images, opened once, at the end
  "monitor": BLOCK,  # measures on `validation` meanwhile; see monitoring
  "device_augment": TEXT,  # of train.augment_device.AUGMENTS
  "repeats": COUNT,  # of each image within a batch, as DeiT's augmentation
  "source_size": COUNT,  # px of what the device crops, if not image_size
  "num_workers": WHOLE,
  "fsdp": COUNT,  # devices that share one copy of the state; train.loop.fit
}
# What an objective takes of its own.
OWN = {
  "supervised": {
    "label_smoothing": SHARE,
    "ema_decay": BELOW_ONE,
    "mix": BLOCK,
  },
  "moco": {"moco": BLOCK, "knn": BLOCK},
}
KNOWN = REQUIRED | OPTIONAL | OWN["supervised"] | OWN["moco"]
MOCO = {
  "queue_size": COUNT,
  "dim": COUNT,
  "momentum": SHARE,
  "temperature": POSITIVE,
  "num_groups": COUNT,
}
# Where there is no classifier, the k nearest of so many generated images vote
# with their labels, or those of real ones, `pool`: see evals.knn.
KNN = dict(k=20, temperature=0.07, num_images=50_000, pool=None)
KNN_VALUES = {
  "k": COUNT,
  "temperature": POSITIVE,
  "num_images": COUNT,
  "pool": BLOCK,
}
MIX = {
  "mixup_alpha": NOT_NEGATIVE,
  "cutmix_alpha": NOT_NEGATIVE,
  "switch_prob": SHARE,
  "prob": SHARE,
}
BLOCKS = {"moco": MOCO, "knn": KNN_VALUES, "mix": MIX}  # of fields of their own

# What the arms of one run share: the images, what they are measured on, and
# the seeds, by which they are paired.
COMMON = ("arms", "seeds", "strategy", "filter", "validation", "test")
ALONE = "backbone"  # what a run without arms calls its only one


def arms_of(given: Fields) -> dict[str, dict[str, Any]]:
  """Returns the fields of each arm by its name, of a run with or without.

  Args:
    given: of the block; `arms` lists fields that differ, each with a `name`.

  Raises:
    UserError: about names that are missing or not told apart by the letters
      and digits in them, or fields that an arm cannot have of its own.
  """
  common = {k: v for k, v in given.items() if k != "arms"}
  arms = [dict(arm) for arm in given.get("arms") or [{"name": ALONE}]]
  names = [arm.pop("name", None) for arm in arms]
  problems = []
  if "random" in names:
    problems.append("'random' is what `transfer` calls no pre-training")
  if not all(isinstance(name, str) and file_stem(name) for name in names):
    problems.append(f"every arm needs a name of its own; found {names}")
  elif len({file_stem(name) for name in names}) < len(names):
    problems.append(f"two arms would share files; their names are {names}")
  problems += [
    f"{name!r} has {', '.join(own)}, which all arms share: leave it out"
    for name, arm in zip(names, arms, strict=True)
    if (own := sorted(arm.keys() & set(COMMON)))
  ]
  if problems:
    raise UserError(f"config.pretrain.arms: {'; '.join(problems)}.")
  return {n: common | arm for n, arm in zip(names, arms, strict=True)}


def read(given: Fields, validate: Callable[..., None]) -> dict[str, dict]:
  """Returns the fields of each arm, its recipe filled in, and checks the names.

  Args:
    given: of the block.
    validate: (fields, known names, name=, required=), which raises a UserError
      about names that are not known and those that lack.
  """
  validate(given, KNOWN, name="pretrain")
  where = "pretrain.arms" if given.get("arms") else "pretrain"
  arms = {}
  for name, fields in arms_of(given).items():
    validate(fields, KNOWN, name=where)
    fields = recipes.fill(fields)
    if fields.get("device_augment") is not None:
      fields.setdefault("augment", "none")
    validate(fields, KNOWN, name=where, required=REQUIRED)
    for part, known in BLOCKS.items():
      validate(fields.get(part) or {}, known, name=f"{where}.{part}")
    monitor_fields.check(fields, name=where)
    arms[name] = fields
  return arms


def file_stem(arm: str) -> str:
  """Returns what the files of an arm start with, such as "IN-1K-1200"."""
  return re.sub(r"[^A-Za-z0-9.]+", "-", arm).strip("-.")


def label_of(seed: int, arm: str = ALONE) -> str:
  """Returns what the files of a seed of an arm are called."""
  return f"{file_stem(arm)}-s{seed}"


def real_images(arms: Mapping[str, Fields]) -> list[Mapping[str, Any]]:
  """Returns the blocks of real images that arms name, each once."""
  found = []
  for fields in arms.values():
    found += [fields.get("validation"), fields.get("test")]
    found += [
      (fields.get("knn") or {}).get("pool"),
      monitor_fields.pool_of(fields),
    ]
  return [x for i, x in enumerate(found) if x and x not in found[:i]]


def describe(fields: Fields, space: Any) -> dict[str, Any]:
  """Returns what is written beside the weights of an arm, and its label space.

  Args:
    fields: of the arm.
    space: has a name, and classes with names.
  """
  return {
    "kind": "backbone" if name_of(fields) == "moco" else "classifier",
    "model": fields["model"],
    "image_size": fields["image_size"],
    "space": space.name,
    "classes": [c.name for c in space.classes[: fields.get("num_classes")]],
  }


def name_of(fields: Fields) -> str:
  """Returns the key of OBJECTIVES, "supervised" where none is given."""
  return fields.get("objective") or "supervised"


def crops(fields: Fields) -> bool:
  """Tells whether the device cuts rectangles out of whole images.

  It does where its recipe has a crop and the pipeline does nothing.
  """
  name = fields.get("device_augment")
  return name in device_augment.CROPS and fields["augment"] == "none"


def source_size(fields: Fields) -> int:
  """Returns the side, in px, of what the pipeline delivers."""
  return fields.get("source_size") or fields["image_size"]


def contradictions(fields: Fields) -> list[str]:
  """Returns what the fields say against each other, a clause for each.

  Raises:
    UserError: for an augmentation that is not known.
  """
  objective, problems = name_of(fields), []
  for other, names in OWN.items():
    found = [name for name in names if fields.get(name) not in (None, 0)]
    if other != objective and found:
      verb = "is" if len(found) == 1 else "are"
      problems.append(
        f"{', '.join(found)} {verb} of objective={other!r}, not of "
        f"{objective!r}: leave it out"
      )
  if fields.get("device_augment") is not None:
    device_augment.make_augment(fields["device_augment"])
  elif fields.get("mix") is not None:
    problems.append(
      "mix is of normalised images: give a device_augment, such as 'deit'"
    )
  if fields.get("num_classes"):
    if found := [x for x in ("validation", "test") if fields.get(x)]:
      problems.append(
        f"num_classes leaves classes out, but {', '.join(found)} may show "
        "them: leave it out, too"
      )
  if fields.get("source_size") and not crops(fields):
    problems.append(
      "source_size is of images that the device crops: give augment='none' "
      f"and a device_augment of {', '.join(sorted(device_augment.CROPS))}"
    )
  if objective == "moco" and not crops(fields):
    problems.append(
      "the two views of objective='moco' are made on the device: give "
      "device_augment='moco_v2' and augment='none'"
    )
  pool = (fields.get("knn") or {}).get("pool")
  for split in ("validation", "test"):
    if pool is not None and pool == fields.get(split):
      problems.append(
        f"knn.pool and {split} are the same images, {pool}, and each would be "
        "its own neighbour: choose another split for one of them"
      )
  return problems

r"""How many generated images a class are enough.

  python -m synthjax.weights fetch glide clip_rn50 t5_common_gen
  python -m synthjax.main --config=configs/image_count.py --workdir=$OUT

  --config=...:runlocal       the embedded world, about 8 minutes on 2 cores
  --config=...:space=eurosat  or another set
  --config=...:choice=entropy what a head is least sure of, beside as many by
                              chance; or margin
  --config.tune.seeds=0,1     any single value

All arms share one drawing. An arm takes the images that a drawing of its number
would have had, and filters those: 2,000 are the LE+CF SCE of Table 2. Every
number has the cap of the released filter, 800 images a class; the paper does
not say. `:runlocal` leaves out the filter.

With `choice`, a head learns from all images that passed the filter, and an arm
from those of each class that it is least sure of. Deliberate Practice (Hemmat
et al. 2025) claims that such images bend the curve upwards, on ImageNet with
an eighth of the images. Its `:runlocal` ends with a forecast for twice the
largest number, and whether it is worth drawing; any run with validation images
has one by --config.tune.scaling.up_to=8000.

Paper, Table A.13 (CIFAR-10, CLIP-RN50, top-1 in %), images a class:
  0 70.31, 1000 79.21, 2000 80.06, 4000 80.08
Measured: not run at full size. `:runlocal`: see docs/results.md.
"""

from collections.abc import Sequence
from typing import Any

import ml_collections

from synthjax.config import (
  EMBEDDED_HEAD,
  data_set,
  embedded_world,
  parse_arg,
  released_clip,
  released_glide,
  released_t5,
  report,
  unknown_names,
)

COUNTS, SMALL_COUNTS = (1000, 2000, 4000), (5, 10, 20, 40, 80)
CHOSEN = (100, 200, 400)  # of the 800 that the filter keeps
CHOICES = ("chance", "entropy", "margin")


def arms_of(
  counts: Sequence[int], field: str, choices: Sequence[str], filtered: bool
) -> tuple[dict[str, Any], ...]:
  """Returns an arm for each number of images and way of choosing them.

  Args:
    counts: of images a class.
    field: that has the number.
    choices: of CHOICES.
    filtered: whether they are of those that passed the filter.
  """
  arms = []
  for choice in choices:
    by_chance = choice == CHOICES[0]
    about = {} if by_chance else dict(choice=choice)
    for count in counts:
      name = f"{count} per class" + ("" if by_chance else f", {choice}")
      arms.append(
        dict(
          name=name,
          strategy="enhanced",
          filter=filtered,
          soft_weight=0.5,
          **{field: count},
          **about,
        )
      )
  return tuple(arms)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg, runlocal=False, space="cifar10", data_dir=None, choice=CHOICES[0]
  )
  if arg.choice not in CHOICES:
    raise unknown_names("choice", [arg.choice], CHOICES)
  choices = dict.fromkeys((CHOICES[0], arg.choice))
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "score", "select", "tune", "report")
  config.seed = 0
  config.space = arg.space

  config.prompts = dict(
    strategies=("enhanced",),
    per_class=200,
    writer=released_t5(config.space),
  )
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=max(COUNTS), seeds=(0,), shard_size=4096
  )
  config.encoder = released_clip()
  config.score = dict()
  config.select = dict(max_per_class=800)

  config.tune = dict(
    arms=arms_of(COUNTS, "drawn_per_class", CHOICES[:1], filtered=True),
    seeds=(0, 1, 2, 3, 4),
    num_epochs=30,
    batch_size=512,
    lr=2e-3,
    weight_decay=0.1,
    clip_norm=1.0,
    temperature=2.0,
    test=data_set(arg.space, "test", arg.data_dir),
  )
  config.report = report(paper=("A13",))
  if len(choices) > 1:
    config.tune.arms = arms_of(
      CHOSEN, "images_per_class", choices, filtered=True
    )
    config.report = report()

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.space = "emoji16"
    config.prompts = dict(
      strategies=("enhanced",), per_class=80, grammar="drawing"
    )
    for block, fields in embedded_world().items():
      config[block] = fields
    config.tasks = ("prompts", "generate", "score", "tune", "report")
    del config.select
    config.generate = dict(
      images_per_class=max(SMALL_COUNTS), seeds=(0, 1, 2), shard_size=640
    )
    config.tune.seeds = (0, 1, 2)
    config.tune.arms = arms_of(
      SMALL_COUNTS, "images_per_class", choices, filtered=False
    )
    if len(choices) > 1:
      config.tune.scaling = dict(up_to=2 * max(SMALL_COUNTS), min_gain=0.01)
    # As in quickstart.py, chosen on the validation style.
    config.tune.update(EMBEDDED_HEAD)
    config.tune.validation = dict(split="validation")
    config.tune.test = dict(split="test")
  return config

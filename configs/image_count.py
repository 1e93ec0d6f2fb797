r"""How many generated images a class are enough.

  python -m synthjax.weights fetch glide clip_rn50 t5_common_gen
  python -m synthjax.main --config=configs/image_count.py --workdir=$OUT

  --config=...:runlocal       the embedded world, about 8 minutes on 2 cores
  --config=...:space=eurosat  or another set
  --config.tune.seeds=0,1     any single value

All arms share one drawing. An arm takes the images that a drawing of its number
would have had, and filters those: 2,000 are the LE+CF SCE of Table 2. Every
number has the cap of the released filter, 800 images a class; the paper does
not say. `:runlocal` leaves out the filter.

Paper, Table A.13 (CIFAR-10, CLIP-RN50, top-1 in %), images a class:
  0 70.31, 1000 79.21, 2000 80.06, 4000 80.08
Measured: not run at full size. `:runlocal`: see README.md.
"""

import ml_collections

from synthjax.config import (
  data_set,
  embedded_world,
  parse_arg,
  released_clip,
  released_glide,
  released_t5,
  report,
)

COUNTS, SMALL_COUNTS = (1000, 2000, 4000), (5, 10, 20, 40, 80)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False, space="cifar10", data_dir=None)
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
    arms=tuple(
      dict(
        name=f"{count} per class",
        strategy="enhanced",
        filter=True,
        soft_weight=0.5,
        drawn_per_class=count,
      )
      for count in COUNTS
    ),
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
    config.tune.arms = tuple(
      dict(
        name=f"{count} per class",
        strategy="enhanced",
        filter=False,
        soft_weight=0.5,
        images_per_class=count,
      )
      for count in SMALL_COUNTS
    )
    # As in quickstart.py, chosen on the validation style.
    config.tune.batch_size, config.tune.lr = 32, 3e-2
    config.tune.validation = dict(split="validation")
    config.tune.test = dict(split="test")
  return config

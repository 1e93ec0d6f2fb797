r"""Deliberate Practice: draws what the learner is unsure of, until it stalls.

  python -m synthjax.weights fetch glide clip_rn50 t5_common_gen
  python -m synthjax.main --config=configs/practice.py --workdir=$OUT

  --config=...:runlocal       the embedded world
  --config=...:space=eurosat  or another set
  --config.practice.scales=0,0.5,2    any single value

A head learns from the images that passed the filter. Each round draws more for
every class by the gradient of the head's entropy, adds those that still show
their class, and learns anew, until the validation images stall. The same rounds
without guidance stand beside: at equal numbers of images, the difference is
what guidance gives. One pool of real images validates, as it does in the
paper; the test images are opened at the end.

Paper (Hemmat et al. 2025, arXiv 2502.15588): on ImageNet-100, 3.4 times fewer
images and 6 times fewer iterations for the same accuracy, on ImageNet-1k 8
times fewer images, with networks that learn from nothing but generated images.
Measured: not run at full size. `:runlocal`: see docs/results.md.
"""

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
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False, space="cifar10", data_dir=None)
  config = ml_collections.ConfigDict()
  config.tasks = (
    "prompts",
    "generate",
    "score",
    "select",
    "practice",
    "report",
  )
  config.seed = 0
  config.space = arg.space

  config.prompts = dict(
    strategies=("enhanced",), per_class=200, writer=released_t5(config.space)
  )
  config.generator = released_glide()
  config.generate = dict(images_per_class=500, seeds=(0,), shard_size=4096)
  config.encoder = released_clip()
  config.score = dict()
  config.select = dict(max_per_class=200)

  config.practice = dict(
    scales=(0.0, 1.0),
    images_per_class=200,
    max_rounds=10,
    patience=2,
    seeds=(0, 1, 2, 3, 4),
    # Appendix C.5.1 of He et al.
    num_epochs=30,
    batch_size=512,
    soft_weight=0.5,
    lr=2e-3,
    validation=data_set(arg.space, "train", arg.data_dir),
    test=data_set(arg.space, "test", arg.data_dir),
  )
  config.report = report()

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.space = "emoji16"
    config.prompts = dict(
      strategies=("enhanced",), per_class=10, grammar="drawing"
    )
    for block, fields in embedded_world().items():
      config[block] = fields
    config.generate = dict(images_per_class=10, seeds=(0,), shard_size=160)
    config.select = dict(max_per_class=8)
    config.practice.update(
      images_per_class=10, max_rounds=3, patience=1, seeds=(0, 1, 2)
    )
    config.practice.update(EMBEDDED_HEAD)
    config.practice.validation = dict(split="validation")
    config.practice.test = dict(split="test")
  return config

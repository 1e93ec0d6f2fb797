r"""From random weights: generated images against few real ones, CIFAR-100.

  python -m synthjax.weights fetch glide t5_common_gen
  python -m synthjax.main --config=configs/from_scratch_c100.py --workdir=$OUT

  --config=...:runlocal            the embedded world, some minutes on 2 cores
  --config=...:data_dir=/data      where CIFAR-100 lies
  --config.pretrain.seeds=0,1      any single value

A ResNet learns CIFAR-100 from 500 generated images a class, and the same ResNet
from 1 to 100 real ones. The recipe of Table 4 is not given: this is the usual
one of a ResNet-50 with a 3x3 stem at 32 px.

Paper, Table 4 (ResNet-50, top-1 in %): synthetic 28.74; real shots
  1 2.48, 16 10.4, 32 14.95, 64 21.96, 80 24.4, 90 25.52, 95 27.99, 100 29.95
Measured: not run at full size. `:runlocal`: see docs/results.md.
"""

import ml_collections

from synthjax.config import (
  data_set,
  embedded_world,
  parse_arg,
  released_glide,
  released_t5,
  report,
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=False, data_dir=None)
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "pretrain", "transfer", "report")
  config.seed = 0
  config.space = "cifar100"

  config.prompts = dict(
    strategies=("enhanced",),
    per_class=200,
    writer=released_t5(config.space),
  )
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=500, seeds=(0,), shard_size=4096, image_format="jpeg"
  )

  recipe = dict(
    image_size=32,
    augment="shift",  # crop of a padded image, flip
    epochs=200,
    batch_size=128,
    optimizer=dict(
      name="sgd",
      lr=0.1,
      drops=(60, 120, 160),
      drop_factor=0.2,
      weight_decay=5e-4,
    ),
    log_every=50,
    checkpoint_every=2_500,
    test=data_set("cifar100", "test", arg.data_dir),
  )
  model = dict(name="resnet50", stem="cifar", dtype="bfloat16")
  config.pretrain = dict(model=model, filter=False, seeds=(0, 1, 2), **recipe)
  config.transfer = dict(
    train=data_set("cifar100", "train", arg.data_dir),
    inits=dict(random=dict()),
    shots=(1, 16, 32, 64, 80, 90, 95, 100),
    seeds=(0, 1, 2),
    **recipe,
  )

  config.report = report(paper=("table4",))

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.space = "emoji16"
    config.prompts = dict(
      strategies=("enhanced",), per_class=80, grammar="drawing"
    )
    config.generator = embedded_world()["generator"]
    config.generate = dict(images_per_class=80, seeds=(0,), shard_size=256)
    for block in (config.pretrain, config.transfer):
      block.epochs, block.batch_size, block.num_workers = 30, 32, 0
      block.augment = "drawing"
      block.log_every, block.checkpoint_every = 20, 1_000
      block.optimizer = dict(name="sgd", lr=0.1, weight_decay=5e-4)
      block.test = dict(split="test")
    config.pretrain.model = dict(name="resnet_tiny", stem="imagenet", width=32)
    config.transfer.train = dict(split="real_pool")
    config.transfer.shots = (1, 2, 4, 8, 16, 24)
  return config

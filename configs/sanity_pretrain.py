r"""What pre-training on generated images is worth, in the embedded world.

A small ResNet is pre-trained on generated drawings alone, then finetuned on 16
real ones of each class; the same ResNet starts from random weights. Both are
measured on drawings of styles that nothing here has seen.

  python -m synthjax.main --config=configs/sanity_pretrain.py --workdir=$OUT

  --config=...:images_per_class=60   fewer generated images
  --config=...:runlocal              the same: it is made for a CPU

Each start has its learning rate chosen among the same three, by the mean
accuracy over the seeds on the validation style.

Measured: with earlier networks alone; docs/results.md has pretrain_tables.py,
          which asks the same of more images.
"""

import ml_collections

from synthjax.config import embedded_world, parse_arg, report


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=True, images_per_class=80)
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "pretrain", "transfer", "report")
  config.seed = 0
  config.space = "emoji16"

  config.prompts = dict(
    strategies=("enhanced",), per_class=80, grammar="drawing"
  )
  config.generator = embedded_world()["generator"]
  config.generate = dict(
    images_per_class=arg.images_per_class, seeds=(0,), shard_size=256
  )

  config.pretrain = dict(
    model=dict(name="resnet_tiny", stem="imagenet", width=32),
    filter=False,
    seeds=(0, 1, 2),
    image_size=32,
    augment="drawing",
    epochs=30,
    batch_size=64,
    optimizer=dict(name="sgd", lr=0.1, weight_decay=5e-4),
    validation=dict(split="validation"),
    num_workers=0,
    log_every=20,
    checkpoint_every=200,
  )

  config.transfer = dict(
    train=dict(split="real_pool"),
    validation=dict(split="validation"),
    test=dict(split="test"),
    inits=dict(random=dict(), pretrained=dict()),
    shots=(16,),
    seeds=(0, 1, 2),
    image_size=32,
    augment="drawing",
    epochs=30,
    batch_size=32,
    optimizer=dict(name="sgd", lr=(0.03, 0.1, 0.3), weight_decay=5e-4),
    num_workers=0,
    log_every=20,
    checkpoint_every=1_000,  # a run takes seconds: its end alone
  )
  config.report = report()
  return config

r"""Trains an independent referee of the embedded generator: a small ResNet.

It learns the classes of `emoji16` from all real training drawings, and is used
for nothing else: its accuracy on generated images says how much of what was
asked for another network sees in them.

  python -m synthjax.main --config=tools/embedded_world/referee.py \
    --workdir=$OUT
  python -m synthjax evaluate $OUT IMAGES

IMAGES is a folder with a folder of images for each class. The test that the
first command prints is the accuracy on real drawings of the validation style.
"""

import ml_collections

from synthjax.config import parse_arg, report


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=True, epochs=30)
  config = ml_collections.ConfigDict()
  config.tasks = ("transfer", "report")
  config.seed = 0
  config.space = "emoji16"
  config.transfer = dict(
    model=dict(name="resnet_tiny", stem="imagenet", width=32),
    train=dict(split="train"),
    test=dict(split="validation"),  # the test styles stay closed
    inits=dict(random=dict()),
    shots=(None,),
    seeds=(0, 1, 2),
    image_size=32,
    augment="drawing",
    epochs=arg.epochs,
    batch_size=64,
    optimizer=dict(name="sgd", lr=0.1, weight_decay=5e-4),
    num_workers=0,
    log_every=50,
    checkpoint_every=1_000,
  )
  config.report = report()
  return config

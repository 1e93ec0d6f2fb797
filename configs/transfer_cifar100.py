r"""CIFAR-100 from given weights or none: finetuning, linear probe, few labels.

  python -m synthjax.main --config=configs/transfer_cifar100.py \
    --workdir=$OUT                                ResNet-50, random weights

  --config=...:weights=runs/in1k/pretrain/backbone-s0.safetensors
  --config=...:weights=released:resnet50_torchvision   fetch it first
  --config=...:image_size=32        224 by default; see below
  --config=...:method=linear        the head alone, on frozen features
  --config=...:shots=50             of each class; 0, the default, is all 500
  --config=...:backbone=deit_s      DeiT's recipe; positions are resized
  --config=...:labels=my.yaml,train=photos    photographs in place of CIFAR-100
  --config=...:runlocal             the embedded world, a minute on 2 cores
  --config=...:data_dir=/data       where CIFAR-100 lies

Appendix C.5.3 gives the schedule, and neither the resolution nor the stem.
Weights of ImageNet's stem want 224 px; at 32 px and without weights, the
ResNet has the 3x3 stem that is usual there. With weights, a random start is
finetuned beside them, but not probed.

Paper, Tables 8 and 9 (top-1 in %): ResNet-50 78.83 from random weights, 84.50
from IN-1K; DeiT-S 69.29 and 88.07.
Measured: not run at full size
"""

import ml_collections

from synthjax.config import (
  PHOTOGRAPHS,
  data_set,
  embedded_pretraining,
  finetuning_on_cifar100,
  parse_arg,
  report,
  unknown_names,
  use_deit_finetuning,
  use_photographs,
)

METHODS = ("finetune", "linear")
# The IN-1K rows of Tables 8 and 9.
REAL_IN1K = (
  "released:resnet50_torchvision",
  "released:resnet50_timm",
  "released:deit_s",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data_dir=None,
    backbone="resnet50",
    weights="",
    image_size=224,
    method="finetune",
    shots=0,
    labels=None,
    **PHOTOGRAPHS,
  )
  if arg.method not in METHODS:
    raise unknown_names("method", [arg.method], METHODS)
  config = ml_collections.ConfigDict()
  config.tasks = ("transfer", "report")
  config.seed = 0
  config.space = "cifar100"

  config.transfer = dict(
    model=dict(name=arg.backbone, dtype="bfloat16"),
    train=data_set("cifar100", "train", arg.data_dir),
    test=data_set("cifar100", "test", arg.data_dir),
    **finetuning_on_cifar100(),
  )
  config.transfer.image_size = arg.image_size
  if arg.backbone == "deit_s":
    use_deit_finetuning(config)
  elif arg.image_size < 64 and not arg.weights:
    config.transfer.model.stem = "cifar"

  config.report = report()
  if arg.method == "finetune" and not (arg.shots or arg.runlocal):
    table = "table9" if arg.backbone == "deit_s" else "table8"
    config.report.paper = (table,)
    if arg.weights in REAL_IN1K:
      config.report.paper_rows = dict(pretrained="IN-1K real, 0")
  if arg.runlocal:
    blocks = embedded_pretraining(vit=arg.backbone == "deit_s")
    config.space = blocks["space"]
    config.transfer = blocks["transfer"] | dict(
      model=blocks["pretrain"]["model"]
    )

  config.transfer.inits = dict(random=dict())
  if arg.weights:
    config.transfer.weights = arg.weights
    config.transfer.inits.pretrained = dict()
  if arg.method == "linear":
    # As MoCo's authors probe ImageNet: a large rate, as features are small.
    config.transfer.method = "linear"
    config.transfer.epochs = 30 if arg.runlocal else 100
    config.transfer.optimizer = dict(
      name="sgd",
      lr=3.0 if arg.runlocal else 30.0,
      drops=(0.6 * config.transfer.epochs, 0.8 * config.transfer.epochs),
      drop_factor=0.1,
      weight_decay=0.0,
    )
    if arg.weights:
      del config.transfer.inits["random"]
  use_photographs(config, arg)
  if arg.shots or not arg.runlocal:
    config.transfer.shots = (arg.shots or None,)
  return config

r"""Downstream-aware: pre-training on generated images of CIFAR-100's classes.

  python -m synthjax.weights fetch glide t5_common_gen
  python -m synthjax.main --config=configs/pretrain_c100.py --workdir=$OUT

  --config=...:runlocal                         some minutes on 2 cores
  --config=...:labels=my.yaml,train=photos   other classes, photographs
  --config=...:data_dir=/data                   where CIFAR-100 lies
  --config=...:amount=2.4M                      images; or 3.6M, or 1.2M
  --config=...:images_per_class=100             any other number of them
  --config=...:init=released:resnet50_torchvision   from real IN-1K weights
  --config=...:backbone=deit_s                  with DeiT's own recipe
  --config.pretrain.batch_size=256              any single value

`init` takes any weights of the same model: a path, or what
`python -m synthjax.weights list` names; fetch them first.

Paper, Table 8 (CIFAR-100, ResNet-50, top-1 in %):
  random init    no pre-training 78.83; 1.2M 83.90; 2.4M 85.03; 3.6M 85.24
  IN-1K init     no pre-training 84.50; 1.2M 84.90; 2.4M 85.32; 3.6M 85.52
  It has no DeiT-S here.
Measured: not run at full size
"""

import ml_collections

from synthjax.config import (
  PHOTOGRAPHS,
  data_set,
  embedded_pretraining,
  exports,
  finetuning_on_cifar100,
  parse_arg,
  released_glide,
  released_t5,
  report,
  unknown_names,
  use_deit_recipe,
  use_photographs,
)

# Number of images -> images of a class.
AMOUNTS = {"1.2M": 12_000, "2.4M": 24_000, "3.6M": 36_000}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data_dir=None,
    backbone="resnet50",
    amount="1.2M",
    images_per_class=0,  # those of the amount
    init="",
    labels=None,
    **PHOTOGRAPHS,
  )
  if arg.amount not in AMOUNTS:
    raise unknown_names("amount of images,", [arg.amount], AMOUNTS)
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "pretrain", "transfer", "report")
  config.seed = 0
  config.space = "cifar100"

  # Language enhancement alone, no filter (Appendix C.5.3).
  config.prompts = dict(
    strategies=("enhanced",), per_class=200, writer=released_t5(config.space)
  )
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=arg.images_per_class or AMOUNTS[arg.amount],
    seeds=(0,),
    shard_size=4096,
    image_format="jpeg",  # a fifth of the bytes of PNG, decoded sooner
  )

  # Appendix C.5.3: AdamW, lr 1e-4 from random weights and 1e-5 from those of
  # IN-1K, weight decay 0.9, 90 epochs, batches of 512.
  config.pretrain = dict(
    recipe="aware_from_in1k" if arg.init else "aware",
    model=dict(name=arg.backbone, dtype="bfloat16"),
    filter=False,
    seeds=(0,),
    image_size=224,
    augment="photo",  # random crop, resize, flip
    fsdp=1,  # devices that share one copy of the state
    log_every=50,  # steps, as is every *_every
    checkpoint_every=2_500,
  )
  config.transfer = dict(
    train=data_set("cifar100", "train", arg.data_dir),
    test=data_set("cifar100", "test", arg.data_dir),
    **finetuning_on_cifar100(),
  )
  if arg.backbone == "deit_s":
    use_deit_recipe(config)
  config.export = exports()
  config.report = report()
  if arg.backbone == "resnet50" and not (arg.runlocal or arg.images_per_class):
    start = "IN-1K real + " if arg.init else ""
    rows = dict(pretrained=f"{start}C100 Syn, {arg.amount}")
    config.report.update(paper=("table8",), paper_rows=rows)
  if arg.runlocal:  # comes last, so that it can shrink anything above
    for block, fields in embedded_pretraining(
      vit=arg.backbone == "deit_s"
    ).items():
      config[block] = fields
  if arg.init:
    config.pretrain.init = arg.init
  use_photographs(config, arg, aware=True)
  return config

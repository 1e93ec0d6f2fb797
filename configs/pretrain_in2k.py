r"""Downstream-agnostic: generated images of 2,000 classes of ImageNet.

  python -m synthjax.weights fetch glide t5_common_gen
  python -m synthjax.main --config=configs/pretrain_in2k.py --workdir=$OUT

  --config=...:runlocal               the embedded world, some CPU minutes
  --config=...:labels=my.yaml,train=photos   finetunes on photographs
  --config=...:data_dir=/data         where CIFAR-100 lies
  --config=...:amount=4.0M            images; 2.4M by default
  --config=...:images_per_class=100   any other number of them
  --config=...:backbone=deit_s        with DeiT's recipe
  --config=...:preset=fast            a fifth of the sampler's steps
  --config=...:init=released:resnet50_torchvision   from real IN-1K weights
  --config.pretrain.batch_size=1024   any single value

`init` takes any weights of the same model: a path, or what
`python -m synthjax.weights list` names; fetch them first. The authors released
no list of the 1,000 classes that they added to ImageNet-1K: those of the space
"in2k" are our own draw, by tools/build_in2k.py.

Paper, Table 9 (CIFAR-100, DeiT-S, top-1 in %):
  no pre-training 69.29; 2.4M 88.57; 4.0M 88.91
Table 10 (PASCAL VOC, ResNet-50, AP50):
  random init    no pre-training 66.08; 2.4M 80.54; 4.0M 80.72
  IN-1K init     no pre-training 81.30; 2.4M 81.87; 4.0M 81.91
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

AMOUNTS = {"2.4M": 1200, "4.0M": 2000}  # of images: those of a class


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data_dir=None,
    preset="paper",
    backbone="resnet50",
    amount="2.4M",
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
  config.space = "in2k"

  # Language enhancement alone, no filter (Appendix C.5.3).
  config.prompts = dict(
    strategies=("enhanced",), per_class=200, writer=released_t5(config.space)
  )
  config.generator = released_glide(preset=arg.preset)
  config.generate = dict(
    images_per_class=arg.images_per_class or AMOUNTS[arg.amount],
    seeds=(0,),
    shard_size=4096,
    image_format="jpeg",  # a fifth of the bytes of PNG, decoded sooner
  )

  # Appendix C.5.3: SGD, lr 0.2 from random weights and 0.001 from those of
  # IN-1K, a tenth of it every 30 of 90 epochs, batches of 512.
  config.pretrain = dict(
    recipe="agnostic_from_in1k" if arg.init else "agnostic",
    model=dict(name=arg.backbone, dtype="bfloat16"),
    filter=False,
    seeds=(0,),
    image_size=224,
    augment="photo",  # random crop, resize, flip
    fsdp=1,  # devices that share one copy of the state
    log_every=50,  # steps, as is every *_every
    checkpoint_every=2_500,
  )
  # Appendix C.5.3. It measures the ResNet-50 on VOC alone.
  config.transfer = dict(
    space="cifar100",
    train=data_set("cifar100", "train", arg.data_dir),
    test=data_set("cifar100", "test", arg.data_dir),
    **finetuning_on_cifar100(),
  )
  if arg.backbone == "deit_s":
    use_deit_recipe(config)
  config.export = exports()
  config.report = report()
  if arg.backbone == "deit_s" and not (arg.runlocal or arg.images_per_class):
    start = "IN-1K real + " if arg.init else ""
    rows = dict(pretrained=f"{start}IN-2K Syn, {arg.amount}")
    config.report.update(paper=("table9",), paper_rows=rows)
  if arg.runlocal:  # comes last, so that it can shrink anything above
    for block, fields in embedded_pretraining(
      vit=arg.backbone == "deit_s", preset=arg.preset
    ).items():
      config[block] = fields
  if arg.init:
    config.pretrain.init = arg.init
  use_photographs(config, arg)
  return config

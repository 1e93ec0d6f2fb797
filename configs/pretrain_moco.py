r"""MoCo v2 on generated images: pre-training without their labels.

  python -m synthjax.weights fetch glide t5_common_gen
  python -m synthjax.main --config=configs/pretrain_moco.py --workdir=$OUT

  --config=...:runlocal                         some minutes on 2 cores
  --config=...:labels=my.yaml,train=photos   finetunes on photographs
  --config=...:data_dir=/data                   where CIFAR-100 lies
  --config=...:amount=2.4M                      images; 1.2M by default
  --config=...:space=in2k,amount=4.0M           of 2,000 classes; or 2.4M
  --config=...:images_per_class=100             any other number of them
  --config=...:init=released:moco_v2_200        from MoCo v2 on real IN-1K
  --config.pretrain.batch_size=512              any single value

`init` takes any weights of the same model: a path, or what
`python -m synthjax.weights list` names; fetch them first. Table 11's IN-1K row
starts from MoCo v2 (82.44 is MoCo's own number), not from labels. Half of the
2,000 classes are not the paper's; see pretrain_in2k.py. MoCo v2 is defined for
ResNets: `backbone` is one of them.

Paper, Table 11 (PASCAL VOC, ResNet-50, AP50):
  random init, IN-1K   no pre-training 66.08; 1.2M 81.55; 2.4M 82.13
  random init, IN-2K   2.4M 82.22; 4.0M 82.29
  IN-1K init           no pre-training 82.44 (MoCo v2); 2.4M of IN-1K 82.47
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
  use_photographs,
)

# Label space -> number of images, the first by default -> images of a class.
AMOUNTS = {
  "imagenet": {"1.2M": 1200, "2.4M": 2400},
  "in2k": {"2.4M": 1200, "4.0M": 2000},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data_dir=None,
    backbone="resnet50",
    amount="",
    images_per_class=0,  # those of the amount; 1200 in other spaces
    space="imagenet",
    init="",
    labels=None,
    **PHOTOGRAPHS,
  )
  amounts = AMOUNTS.get(arg.space, {})
  amount = arg.amount or next(iter(amounts), "")
  if amount and amount not in amounts:
    raise unknown_names(f"amount of images of {arg.space},", [amount], amounts)
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "pretrain", "transfer", "report")
  config.seed = 0
  config.space = arg.space

  # Language enhancement alone, no filter (Appendix C.5.3).
  config.prompts = dict(
    strategies=("enhanced",), per_class=200, writer=released_t5(config.space)
  )
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=arg.images_per_class or amounts.get(amount, 1200),
    seeds=(0,),
    shard_size=4096,
    image_format="jpeg",  # a fifth of the bytes of PNG, decoded sooner
  )

  # Chen et al. (2020), 200 epochs; lr 0.03 from random weights and 0.003 from
  # those of IN-1K (Appendix C.5.3).
  config.pretrain = dict(
    recipe="moco_v2_from_in1k" if arg.init else "moco_v2",
    objective="moco",
    moco=dict(
      queue_size=65_536,
      dim=128,
      momentum=0.999,
      temperature=0.2,
      num_groups=8,  # of 32 images, as on the authors' 8 GPUs
    ),
    model=dict(name=arg.backbone, dtype="bfloat16"),
    filter=False,
    seeds=(0,),
    image_size=224,
    source_size=256,  # as they were drawn; the device crops both views
    device_augment="moco_v2",
    fsdp=1,  # devices that share one copy of the state
    log_every=50,  # steps, as is every *_every
    checkpoint_every=2_500,
  )
  # The paper measures on VOC alone; this is Appendix C.5.3's for Table 8.
  config.transfer = dict(
    space="cifar100",
    train=data_set("cifar100", "train", arg.data_dir),
    test=data_set("cifar100", "test", arg.data_dir),
    **finetuning_on_cifar100(),
  )
  config.export = exports()

  config.report = report()
  if arg.runlocal:  # comes last, so that it can shrink anything above
    for block, fields in embedded_pretraining().items():
      config[block] = fields
    config.pretrain = dict(
      objective="moco",
      # For few images and steps: a queue that holds few of an image's own keys,
      # a fast average, and crops alone, as MoCo's blur leaves little of 32 px.
      # The best of six settings on the validation style (one seed).
      moco=dict(queue_size=64, dim=64, momentum=0.9, num_groups=1),
      model=dict(name="resnet_tiny", stem="imagenet", width=32),
      filter=False,
      seeds=(0,),
      image_size=32,
      device_augment="crop_flip",
      epochs=80,
      batch_size=64,
      optimizer=dict(name="adamw", lr=1e-3, weight_decay=1e-2),
      validation=dict(split="validation"),
      knn=dict(k=10),  # of 24 images a class
      monitor=dict(every=100, knn=dict(k=10), linear_probe=True),
      num_workers=0,
      log_every=20,
      checkpoint_every=100,
    )
  if arg.init:
    config.pretrain.init = arg.init
  use_photographs(config, arg)
  return config

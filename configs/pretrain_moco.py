r"""MoCo v2 or StableRep on generated images: pre-training without labels.

  python -m synthjax.weights fetch glide t5_common_gen
  python -m synthjax.main --config=configs/pretrain_moco.py --workdir=$OUT

  --config=...:runlocal                         some minutes on 2 cores
  --config=...:labels=my.yaml,train=photos   finetunes on photographs
  --config=...:data_dir=/data                   where CIFAR-100 lies
  --config=...:amount=2.4M                      images; 1.2M by default
  --config=...:space=in2k,amount=4.0M           of 2,000 classes; or 2.4M
  --config=...:images_per_class=100             any other number of them
  --config=...:init=released:moco_v2_200        from MoCo v2 on real IN-1K
  --config=...:objective=multi_positive         StableRep; also on a ViT:
  --config=...:objective=multi_positive,backbone=deit_b
  --config.pretrain.batch_size=512              any single value

`init` takes any weights of the same model: a path, or what
`python -m synthjax.weights list` names; fetch them first. Table 11's IN-1K row
starts from MoCo v2 (82.44 is MoCo's own number), not from labels. Half of the
2,000 classes are not the paper's; see pretrain_in2k.py. MoCo v2 is defined for
ResNets: `backbone` is one of them, but for StableRep (Tian et al. 2023), to
which the images of one prompt are positives of each other. Of 1.2M images, a
prompt has the 6 that a batch takes. Its batch of 8,256 wants many devices: for
a smaller one, scale `optimizer.lr` with it.

Paper, Table 11 (PASCAL VOC, ResNet-50, AP50):
  random init, IN-1K   no pre-training 66.08; 1.2M 81.55; 2.4M 82.13
  random init, IN-2K   2.4M 82.22; 4.0M 82.29
  IN-1K init           no pre-training 82.44 (MoCo v2); 2.4M of IN-1K 82.47
StableRep's paper (ViT-B, linear on ImageNet, prompts of RedCaps): 73.7 to 76.7
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
  use_deit_finetuning,
  use_photographs,
)

# Label space -> number of images, the first by default -> images of a class.
AMOUNTS = {
  "imagenet": {"1.2M": 1200, "2.4M": 2400},
  "in2k": {"2.4M": 1200, "4.0M": 2000},
}

# By objective: those of Chen et al. (2020) and of Tian et al. (2023), beside
# their recipes.
OBJECTIVES = {
  "moco": dict(
    recipe="moco_v2",
    device_augment="moco_v2",
    moco=dict(
      queue_size=65_536,
      dim=128,
      momentum=0.999,
      temperature=0.2,
      num_groups=8,  # of 32 images, as on the authors' 8 GPUs
    ),
  ),
  "multi_positive": dict(
    recipe="stablerep",
    device_augment="stablerep",
    per_prompt=6,
    multi_positive=dict(hidden=4096, dim=256, temperature=0.1),
  ),
}
# For few images and steps.
EMBEDDED = {
  # A queue that holds few of an image's own keys, and a fast average. The best
  # of six settings on the validation style (one seed).
  "moco": dict(moco=dict(queue_size=64, dim=64, momentum=0.9, num_groups=1)),
  "multi_positive": dict(per_prompt=4, multi_positive=dict(hidden=128, dim=64)),
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
    objective="moco",
    labels=None,
    **PHOTOGRAPHS,
  )
  if arg.objective not in OBJECTIVES:
    raise unknown_names("objective", [arg.objective], OBJECTIVES)
  is_moco, is_vit = arg.objective == "moco", arg.backbone.startswith("deit")
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

  config.pretrain = dict(
    objective=arg.objective,
    **OBJECTIVES[arg.objective],
    model=dict(name=arg.backbone, dtype="bfloat16"),
    filter=False,
    seeds=(0,),
    image_size=224,
    source_size=256,  # as they were drawn; the device crops all views
    fsdp=1,  # devices that share one copy of the state
    log_every=50,  # steps, as is every *_every
    checkpoint_every=2_500,
  )
  if arg.init and is_moco:
    # Chen et al. have 0.03 from random weights; 0.003 is Appendix C.5.3's.
    config.pretrain.recipe = "moco_v2_from_in1k"
  # The paper measures on VOC alone; this is Appendix C.5.3's for Table 8.
  config.transfer = dict(
    space="cifar100",
    train=data_set("cifar100", "train", arg.data_dir),
    test=data_set("cifar100", "test", arg.data_dir),
    **finetuning_on_cifar100(),
  )
  if is_vit:
    use_deit_finetuning(config)
    config.transfer.model.name = arg.backbone
  config.export = exports()

  config.report = report()
  if arg.runlocal:  # comes last, so that it can shrink anything above
    blocks = embedded_pretraining(vit=is_vit)
    for block, fields in blocks.items():
      config[block] = fields
    config.pretrain = dict(
      objective=arg.objective,
      **EMBEDDED[arg.objective],
      model=blocks["pretrain"]["model"],
      filter=False,
      seeds=(0,),
      image_size=32,
      device_augment="crop_flip",  # blur leaves little of 32 px
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
    if not is_moco:  # as many images, 4 of a prompt
      config.prompts.per_class = 6
  if arg.init:
    config.pretrain.init = arg.init
  use_photographs(config, arg)
  return config

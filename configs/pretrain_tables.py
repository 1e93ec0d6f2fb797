r"""What pre-training on generated images is worth: Tables 8 and 9, and MoCo v2.

  python -m synthjax.main --config=configs/pretrain_tables.py:table=8 \
    --workdir=$OUT

  --config=...:table=8                more images of the classes to come
  --config=...:table=9                images of other classes, and of more
  --config=...:table=moco             the same with their labels and without
  --config=...:table=stablerep        four images a prompt: as positives of each
                                      other (StableRep), and without that
  --config=...:table=9,backbone=vit   a small ViT in place of a small ResNet
  --config=...:table=9,images=1200    what is trained on so many alone
  --config=...:runlocal               the same: they are made for a CPU

The embedded world alone, at a thousandth of the paper's amounts. CIFAR-100 is
`emoji16`; IN-1K are 80 single concepts and IN-2K 160, of which the generator
has seen drawings, 90 % of them of kinds that `emoji16` has. All is finetuned on
16 real drawings of each class and tested on styles that nothing here has seen,
over three seeds of training, and each start has its learning rate chosen among
the same three on the validation style. `pretrain_c100.py`, `pretrain_in1k.py`,
`pretrain_in2k.py` and `pretrain_moco.py` are the full-size runs.

Paper (CIFAR-100, top-1 in %): Table 8, ResNet-50: no pre-training 78.83, 1.2M
images 83.90, 2.4M 85.03, 3.6M 85.24. Table 9, DeiT-S: none 69.29; IN-1K 1.2M
87.98, 2.4M 88.39; IN-2K 2.4M 88.57, 4.0M 88.91.
Measured: see docs/results.md.
"""

import ml_collections

from synthjax.config import (
  embedded_pretraining,
  embedded_world,
  parse_arg,
  report,
  unknown_names,
)

AMOUNTS = ("1200", "2400", "4800")
BACKBONES = {"resnet": False, "vit": True}

# Without labels, for few images and steps: see pretrain_moco.py.
UNLABELLED = dict(
  device_augment="crop_flip",
  augment="none",
  epochs=30,
  optimizer=dict(name="adamw", lr=1e-3, weight_decay=1e-2),
)
MOCO = dict(
  objective="moco",
  moco=dict(queue_size=64, dim=64, momentum=0.9, num_groups=1),
  **UNLABELLED,
)
STABLEREP = dict(
  objective="multi_positive",
  per_prompt=4,
  multi_positive=dict(hidden=128, dim=64),
  **UNLABELLED,
)


def amount(classes: str, num_images: int, num_classes: int) -> dict:
  """Returns an arm that trains on so many images of each class."""
  return dict(
    name=f"{classes} x {num_images}",
    images_per_class=num_images,
    num_classes=num_classes,
  )


FEW, MANY = "80 concepts", "160 concepts"
# The same number of images, to learn with their labels and without.
LABELS_60 = amount("labels, 80 concepts", 60, 80)
MOCO_60 = amount("MoCo, 80 concepts", 60, 80) | MOCO
STABLEREP_60 = amount("StableRep, 80 concepts", 60, 80) | STABLEREP
TABLES = {
  "8": dict(
    space="emoji16",
    per_class=80,
    images_per_class=300,
    arms=tuple(amount("own 16 classes", n, 16) for n in (75, 150, 300)),
    compare=(
      ("own 16 classes x 150", "own 16 classes x 75"),
      ("own 16 classes x 300", "own 16 classes x 150"),
    ),
  ),
  "9": dict(
    space="concepts160",
    per_class=40,
    images_per_class=60,
    arms=(
      *(amount(FEW, n, 80) for n in (15, 30, 60)),
      *(amount(MANY, n, 160) for n in (15, 30)),
    ),
    compare=(
      (f"{FEW} x 30", f"{FEW} x 15"),
      (f"{FEW} x 60", f"{FEW} x 30"),
      (f"{MANY} x 15", f"{FEW} x 30"),  # as many images, of more classes
      (f"{MANY} x 30", f"{FEW} x 60"),
    ),
  ),
  "moco": dict(
    space="concepts160",
    per_class=40,
    images_per_class=60,
    arms=(
      LABELS_60,
      amount("MoCo, 80 concepts", 15, 80) | MOCO,
      MOCO_60,
    ),
    compare=(
      (MOCO_60["name"], "MoCo, 80 concepts x 15"),
      (MOCO_60["name"], LABELS_60["name"]),
    ),
  ),
  "stablerep": dict(
    space="concepts160",
    per_class=15,  # prompts, of 4 images each
    images_per_class=60,
    arms=(LABELS_60, MOCO_60, STABLEREP_60),
    compare=tuple(
      (STABLEREP_60["name"], other["name"]) for other in (MOCO_60, LABELS_60)
    ),
  ),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(arg, runlocal=True, table="8", backbone="resnet", images=0)
  if arg.table not in TABLES:
    raise unknown_names("table", [arg.table], TABLES)
  if arg.backbone not in BACKBONES:
    raise unknown_names("backbone", [arg.backbone], BACKBONES)
  table, vit = TABLES[arg.table], BACKBONES[arg.backbone]
  if vit and any("objective" in arm for arm in table["arms"]):
    raise unknown_names(f"backbone of table={arg.table},", ["vit"], ["resnet"])
  arms = tuple(
    arm
    for arm in table["arms"]
    if arg.images in (0, arm["images_per_class"] * arm["num_classes"])
  )
  if not arms:
    raise unknown_names("number of images,", [str(arg.images)], AMOUNTS)
  names = {arm["name"] for arm in arms}
  blocks = embedded_pretraining(vit=vit)
  config = ml_collections.ConfigDict()
  config.tasks = ("prompts", "generate", "pretrain", "transfer", "report")
  config.seed = 0
  config.space = table["space"]

  config.prompts = dict(
    strategies=("enhanced",), per_class=table["per_class"], grammar="drawing"
  )
  config.generator = embedded_world()["generator"]
  config.generate = dict(
    images_per_class=table["images_per_class"], seeds=(0,), shard_size=480
  )

  config.pretrain = blocks["pretrain"] | dict(
    arms=arms, seeds=(0, 1, 2), epochs=20
  )
  del config.pretrain["validation"]  # there are no real images of concepts

  rates = (3e-4, 1e-3, 3e-3) if vit else (0.03, 0.1, 0.3)
  config.transfer = blocks["transfer"] | dict(
    space="emoji16",
    validation=dict(split="validation"),
    optimizer=blocks["transfer"]["optimizer"] | dict(lr=rates),
    compare=tuple(pair for pair in table["compare"] if names.issuperset(pair)),
  )
  config.report = report()
  return config

r"""Detection from backbones of generated images: Tables 10 and 11, PASCAL VOC.

  python -m synthjax.datasets fetch voc --data_dir=/data
  python -m synthjax.main --config=configs/detect_voc.py:data_dir=/data \
    --workdir=$OUT

  --config=...:runlocal                   about 45 minutes on 2 cores
  --config=...:data_dir=/data             the archives or VOCdevkit of VOC 2007
                                          and 2012
  --config=...:init=random                no pre-training; `both` by default
  --config=...:init=pretrained,weights=released:resnet50_torchvision
                                          IN-1K of Table 10; any ResNet-50
  --config=...:init=pretrained,weights=released:moco_v2_200
                                          IN-1K of Table 11
  --config=...:labels=my.yaml,train=photos   other images with boxes: COCO, VOC
  --config=...:batch_size=32              the rate and the steps follow it
  --config=...:num_steps=6000             fewer of them
  --config.detect.seeds="(0,1,2)"         any single value

Without `weights`, the backbones are those that pretrain_in1k.py,
pretrain_in2k.py or pretrain_moco.py have left in the same workdir.

The protocol is that of MoCo: Faster R-CNN on the C4 features of a ResNet-50,
trained on the 16,551 images of VOC07+12 trainval for 24,000 steps of 16 images,
BatchNorm over all of them, and measured on the 4,952 images of VOC07 test.

Paper, AP50 in %:
Table 10, supervised; no pre-training 66.08
  random init    IN-1K Syn 1.2M 79.00, 2.4M 80.00; IN-2K Syn 2.4M 80.54,
                 4.0M 80.72
  IN-1K init     81.30; IN-1K Syn 2.4M 81.78; IN-2K Syn 2.4M 81.87, 4.0M 81.91
Table 11, MoCo v2; no pre-training 66.08
  random init    IN-1K Syn 1.2M 81.55, 2.4M 82.13; IN-2K Syn 2.4M 82.22,
                 4.0M 82.29
  IN-1K init     82.44; IN-1K Syn 2.4M 82.47
Measured: not run at full size. `:runlocal`: 22.3 from random weights, 23.7 from
generated images with labels, 21.6 with MoCo v2; see docs/results.md.
"""

import ml_collections

from synthjax.config import (
  PHOTOGRAPHS,
  embedded_pretraining,
  exports,
  own_space,
  parse_arg,
  photographs,
  replace_images,
  report,
  unknown_names,
)

INITS = {
  "both": dict(random=dict(), pretrained=dict()),
  "random": dict(random=dict()),
  "pretrained": dict(pretrained=dict()),
}
# The IN-1K rows without generated images: with labels, and MoCo v2.
REAL_IN1K = {
  "released:resnet50_torchvision": "table10",
  "released:resnet50_timm": "table10",
  "released:moco_v2_200": "table11",
}
TRAIN = (("2007", "trainval"), ("2012", "trainval"))
TEST = (("2007", "test"),)

# As in pretrain_tables.py: the same prompts, images and arms.
LABELS, MOCO = "labels, 80 concepts x 60", "MoCo, 80 concepts x 60"
ARMS = (
  dict(name=LABELS, num_classes=80, images_per_class=60),
  dict(
    name=MOCO,
    num_classes=80,
    images_per_class=60,
    objective="moco",
    moco=dict(queue_size=64, dim=64, momentum=0.9, num_groups=1),
    device_augment="crop_flip",
    augment="none",
    epochs=30,
    optimizer=dict(name="adamw", lr=1e-3, weight_decay=1e-2),
  ),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data_dir=None,
    init="both",
    weights="",
    num_steps=0,  # those of the recipe
    batch_size=16,
    labels=None,
    **PHOTOGRAPHS,
  )
  if arg.init not in INITS:
    raise unknown_names("init", [arg.init], INITS)
  config = ml_collections.ConfigDict()
  config.tasks = ("detect", "report")
  config.seed = 0
  config.space = "voc"

  source = dict(kind="voc")
  if arg.data_dir:
    source["data_dir"] = arg.data_dir
  config.detect = dict(
    space="voc",
    train=source | dict(sets=TRAIN),
    test=source | dict(sets=TEST),
    inits=INITS[arg.init],
    weights=arg.weights,
    seeds=(0,),
    # Blocks are computed again where their activations may not fit: `remat`.
    model=dict(name="resnet50", dtype="bfloat16"),
    recipe="voc_detection",
    batch_size=arg.batch_size,
    # A shape is compiled in a minute. For training, six of them have 22 % of
    # padding and five 25 %, which takes longer; two for the test have 18 %.
    eval_num_buckets=2,
    precise_bn_iterations=200,
    log_every=50,  # steps, as is every *_every
    checkpoint_every=1_000,
  )
  config.export = exports()
  config.report = report(paper=("table10", "table11"))
  if arg.weights in REAL_IN1K:
    config.report.paper = (REAL_IN1K[arg.weights],)
    config.report.paper_rows = dict(pretrained="IN-1K real, 0")
  if arg.runlocal:  # comes last, so that it can shrink anything above
    shrink(config)
  if arg.num_steps:
    config.detect.num_steps = arg.num_steps
  if own := own_space(arg):
    config.detect.space = own
    replace_images(config.detect, photographs(arg))
    if arg.init == "random":  # nothing to draw, or to train before
      config.tasks = ("detect", "report")
    config.report = report()
  return config


def shrink(config: ml_collections.ConfigDict) -> None:
  """Trains on scenes of the embedded drawings, 128 px and smaller."""
  blocks = embedded_pretraining()
  config.tasks = ("prompts", "generate", "pretrain", "detect", "report")
  config.space = "concepts160"
  config.prompts = blocks["prompts"] | dict(per_class=40)
  config.generator = blocks["generator"]
  config.generate = dict(images_per_class=60, seeds=(0,), shard_size=480)
  config.pretrain = blocks["pretrain"] | dict(
    arms=ARMS, seeds=(0, 1, 2), epochs=20
  )
  del config.pretrain["validation"]  # there are no real images of concepts

  arms = "pretrained" in config.detect.inits and not config.detect.weights
  scenes = lambda split, count: dict(kind="scenes", split=split, count=count)
  config.detect = dict(
    space="emoji16",
    train=scenes("train", 600),
    validation=scenes("validation", 100),
    test=scenes("test", 300),
    inits=config.detect.inits.to_dict(),
    weights=config.detect.weights,
    compare=((MOCO, LABELS),) if arms else (),
    seeds=(0, 1, 2),
    # Fewer anchors and regions than for VOC, where objects are larger.
    options=dict(
      sizes=(16, 32, 64),
      ratios=(1.0,),
      num_anchors=64,
      max_positive_anchors=32,
      pre_top=300,
      post_top=100,
      test_pre_top=300,
      test_post_top=100,
      num_rois=32,
      max_foreground=16,
      max_detections=20,
    ),
    roi_size=6,
    sampling=2,
    short_sides=(96, 112, 128),
    eval_short_side=112,
    max_size=176,
    num_buckets=2,
    eval_num_buckets=2,
    num_steps=1_200,
    batch_size=8,
    optimizer=dict(
      name="adamw",
      lr=5e-3,
      warmup=30,
      weight_decay=0.01,
      decay="all_but_norms",
    ),
    precise_bn_iterations=20,
    num_workers=0,
    log_every=50,
    checkpoint_every=200,
  )
  config.report = report()

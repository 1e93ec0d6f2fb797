r"""From your own class names to a classifier, in five lines of YAML.

  python -m synthjax.main --config=configs/own_labels.py:labels=my.yaml \
    --workdir=$OUT

  --config=...:labels=my.yaml,runlocal      the embedded world, some CPU minutes
  --config=...:labels=my.yaml,test=PATH     measures on photographs
  --config=...:labels=my.yaml,train=PATH,shots=8   learns from some of them, too
  --config=...:labels=my.yaml,encoder=vit_b16   or any CLIP, SigLIP 2
  --config=...:labels=my.yaml,images_per_class=200   faster, and less sure
  --config=...:labels=my.yaml,strategy=template   draws from its `prompts`
  --config=...:labels=my.yaml,writer=qwen3   texts by Qwen3-4B, not a grammar
  --config=...:labels=my.yaml,writer=FILE   or by any other, from JSON lines
  --config=...:labels=pets                  any built-in label space
  --config.tasks="('export',)" --config.export.formats=png_folder,webdataset
                                            when it is done: takes images away

A file with a list of names, in YAML or JSON, is enough:

  - kingfisher
  - {name: crane, sense: bird}
  - {name: bat, description: "a wooden club"}
  - {name: gull, related: [herring gull, gull on a mast]}

It says before it draws which names have several meanings, and what to write
against that; docs/own_classes.md has the rest. Without real images the
classifier is trained and written, and not measured. The recipe is the paper's
best zero-shot one (see zeroshot.py), with a grammar in place of T5.
`:runlocal` takes the embedded world, which draws only what emoji show.

Measured: not run at full size. `:runlocal` is quickstart.py's recipe: see
          docs/results.md.
"""

import ml_collections

from synthjax.config import (
  EMBEDDED_HEAD,
  PHOTOGRAPHS,
  clip_encoder,
  embedded_kept,
  embedded_world,
  exports,
  parse_arg,
  photographs,
  prompt_writer,
  real_images,
  released_clip,
  released_glide,
  report,
  unknown_names,
)

ARMS = {"enhanced": "LE+CF SCE", "template": "CF SCE"}  # by strategy


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    labels="emoji10",  # so that the config can be looked at
    encoder="rn50",
    images_per_class=0,  # 2,000 or, with runlocal, 30
    strategy="enhanced",  # or "template": the file's own prompts
    writer="grammar",  # of "enhanced": or "qwen3", or a file of texts
    shots=4,  # photographs of each class of `train`
    **PHOTOGRAPHS,
  )
  if arg.strategy not in ARMS:
    raise unknown_names("strategy", [arg.strategy], ARMS)
  num_images = arg.images_per_class or (30 if arg.runlocal else 2000)
  config = ml_collections.ConfigDict()
  config.tasks = (
    "prompts",
    "generate",
    "score",
    "select",
    "tune",
    "card",
    "report",
  )
  config.seed = 0
  config.space = arg.labels

  # Ten images of each text, of which the filter keeps two fifths, as the paper.
  config.prompts = dict(
    strategies=(arg.strategy,),
    per_class=max(1, num_images // 10),
    grammar="photo",
  )
  if arg.writer != "grammar":
    del config.prompts["grammar"]
    config.prompts.writer = prompt_writer(arg.writer)
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=num_images, seeds=(0,), shard_size=4096, preview=100
  )
  config.encoder = clip_encoder(arg.encoder)
  config.score = dict()
  if arg.encoder != "rn50":  # it filters, whatever is tuned
    config.score.filter_encoder = released_clip("clip_rn50")
  config.select = dict(max_per_class=max(1, 2 * num_images // 5))

  # Appendix C.5.1. With no real images there is nothing to choose by, so that
  # the paper's fixed epochs stand.
  config.tune = dict(
    arms=(
      dict(
        name=ARMS[arg.strategy],
        strategy=arg.strategy,
        filter=True,
        soft_weight=0.5,
      ),
    ),
    seeds=(0, 1, 2),
    num_epochs=30,
    batch_size=512,
    lr=2e-3,
    weight_decay=0.1,
    clip_norm=1.0,
    temperature=2.0,
    test=measured_on(arg),
  )
  if arg.train:  # what few photographs teach, with generated images or alone
    blocks = photographs(arg)
    methods = [("with generated images", "mix"), ("photographs alone", "real")]
    config.few_shot = dict(
      methods=tuple(_method(arg, *method) for method in methods),
      shots=(arg.shots,),
      seeds=(0, 1, 2),
      pool=blocks["train"],
      **{name: block for name, block in blocks.items() if name != "train"},
    )
    config.tasks = (*config.tasks[:-2], "few_shot", *config.tasks[-2:])
  elif arg.validation:
    config.tune.validation = real_images(arg.validation)
  # How good the images are, and whether any is near one that is measured on.
  config.card = dict(
    real=measured_on(arg),
    encoders="fetched",  # FID's Inception and DINOv2, if they are there
  )
  config.export = exports()
  config.report = report()

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.prompts.per_class = num_images
    if arg.writer == "grammar":
      config.prompts.grammar = "drawing"
    for block, fields in embedded_world().items():
      config[block] = fields
    config.score = dict()
    config.card.encoders = "none"  # they are for accelerators
    config.generate.shard_size = 480
    config.select.max_per_class = embedded_kept(num_images)
    config.tune.update(EMBEDDED_HEAD)
  return config


def measured_on(arg):
  """Returns the test images, or a field that is None."""
  return photographs(arg)["test"] if arg.train else real_images(arg.test)


def _method(arg, name: str, order: str) -> dict:
  """Returns a method of `few_shot`, by fewshot.py's settings."""
  options = dict(order=order, lr=1e-3)
  if arg.runlocal:
    options |= dict(lr=1e-1, batch_size=32, real_batch_size=32)
  drawn = dict(strategy=arg.strategy, filter="clip") if order == "mix" else {}
  return dict(name=name, kind="classifier", options=options, **drawn)

r"""Few photographs in some classes: draws what lacks, and measures the gain.

  python -m synthjax.weights fetch glide clip_rn50
  python -m synthjax.main --config=configs/topup.py:data=photos --workdir=$OUT

  --config=...:runlocal               the embedded world, 5 minutes on 2 cores
  --config=...:data=photos,per_class=300     tops up to 300 images of each class
  --config=...:data=photos,validation=PATH,test=PATH    those choose and measure
  --config=...:data=photos,labels=my.yaml    other names than those of folders
  --config=...:data=photos,encoder=vit_b16   or any CLIP, SigLIP 2
  --config=...:data=photos,generator=hf://ORG/NAME      a Stable Diffusion
  --config.top_up.weights=0.3,1       any single value

Counts the photographs of each class, and draws for each class what it lacks to
be as large as the largest. The classifier of CLIP learns in three ways: from
the photographs as they are, with every class as often (oversampling), and so
with the generated images in them. How much a generated image counts beside a
photograph is chosen on validation images: without `validation`, a fifth of the
photographs of each class. Without `test`, another fifth of them measures.

Not of the paper, whose classes are even. What comes from it: the texts' filter
keeps two fifths of the images (Section 3.1), and generated images have soft
targets (Appendix C.4).

Measured: not run at full size. `:runlocal`: see docs/photographs.md.
"""

import ml_collections

from synthjax.config import (
  EMBEDDED_HEAD,
  EMBEDDED_KEPT,
  UserError,
  clip_encoder,
  embedded_world,
  exports,
  hub_generator,
  parse_arg,
  photographs,
  released_clip,
  released_glide,
  report,
)

SHARE = 0.4  # of the images that are drawn, that the filter keeps


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    data=None,
    validation=None,
    test=None,
    labels=None,  # the names of the folders in `data`
    per_class=0,  # as many as the largest class
    encoder="rn50",
    generator="glide",
  )
  lone = {n: getattr(arg, n) for n in ("labels", "validation", "test")}
  if not arg.data and (lone := [n for n, given in lone.items() if given]):
    raise UserError(
      f"{' and '.join(lone)} without `data`: give data=PATH, the photographs "
      "that some classes have few of."
    )
  arg.train = arg.data  # as other configs call it
  config = ml_collections.ConfigDict()
  config.tasks = (
    "prompts",
    "generate",
    "score",
    "select",
    "top_up",
    "report",
  )
  config.seed = 0
  # With a slash behind it, "pets" is a folder, and no built-in space.
  config.space = arg.labels or (f"{arg.data}/" if arg.data else "emoji16")

  config.prompts = dict(
    strategies=("enhanced",), per_class=200, grammar="photo"
  )
  config.generator = released_glide()
  if arg.generator != "glide":
    config.generator = hub_generator(arg.generator)
  splits = photographs(arg) or dict(
    train=dict(split="real_pool", rare=8),
    validation=dict(split="validation"),
    test=dict(split="test"),
  )
  config.generate = dict(
    seeds=(0,),
    shard_size=4096,
    preview=100,
    top_up=dict(pool=splits["train"], share=SHARE),
  )
  if arg.per_class:
    config.generate.images_per_class = arg.per_class
  config.encoder = clip_encoder(arg.encoder)
  config.score = dict()
  if arg.encoder != "rn50":  # it filters, whatever is tuned
    config.score.filter_encoder = released_clip("clip_rn50")
  config.select = dict(share=SHARE)

  config.top_up = dict(
    pool=splits.pop("train"),
    **splits,
    weights=(0.1, 0.3, 1.0, 3.0),
    seeds=(0, 1, 2, 3, 4),
    # Appendix C.5 for the rest.
    soft_weight=0.5,
    lr=2e-3,
    num_epochs=30,
    batch_size=512,
  )
  config.export = exports()
  config.report = report()

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.prompts.update(per_class=30, grammar="drawing")
    for block, fields in embedded_world().items():
      config[block] = fields
    config.score = dict()
    config.generate.update(shard_size=480)
    config.generate.top_up.share = config.select.share = EMBEDDED_KEPT
    if not arg.data:
      config.generate.preview = 0  # CLIP knows too little of these classes
      config.generate.images_per_class = arg.per_class or 60
    # Its zero-shot classifier knows too little to teach: on the validation
    # style, mixes are better without soft targets.
    config.top_up.update(EMBEDDED_HEAD | dict(soft_weight=0.0))
  return config

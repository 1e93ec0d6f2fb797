r"""Which generator, guidance and prompts? Draws a few images of each; ranks.

  python -m synthjax.weights fetch glide clip_rn50 sdxl_turbo flux2_klein
  python -m synthjax.main --config=configs/bakeoff.py:space=pets --workdir=$OUT
  python -m synthjax.main --config=$OUT/bakeoff/best.py --workdir=$BIG

  --config=...:runlocal            presets of the embedded generator, on a CPU
  --config=...:generators=glide+sdxl+hf://ORG/NAME   any of docs/generators.md
  --config=...:guidance=1.5+5      these scales, too, of those that are guided
  --config=...:prompts=basic+template+grammar+t5+qwen3   or files of texts
  --config=...:images_per_class=50
  --config=...:space=my.yaml,validation=PATH,test=PATH   classes of your own
  --config=...:encoder=vit_b16     or any CLIP, SigLIP 2
  --config=...:resnet              trains a small ResNet on each, too
  --config.bakeoff.skip_refused=True   does without what cannot be loaded

Each generator, with each of its scales, draws three times from each kind of
prompts. The head of CLIP learns from what the filter keeps of each drawing, as
in zeroshot.py, and the heads are ranked by their accuracy on validation images.
The first command leaves, beside the report, the config of a run of 2,000 images
of each class with the best one. Only that one is measured on the test images,
once.

Not of the paper, which has one generator. Newer ones draw less varied images,
which may teach less (arXiv 2602.19946). As in practice.py, the training images
of a data set validate, as nothing learns from them.

Measured: not run at full size. `:runlocal`, with one drawing by each candidate:
docs/results.md.
"""

import ml_collections

from synthjax.config import (
  EMBEDDED_HEAD,
  EMBEDDED_PRESETS,
  HUB_GENERATORS,
  UserError,
  clip_encoder,
  data_set,
  embedded_kept,
  embedded_pretraining,
  embedded_world,
  exports,
  hub_generator,
  parse_arg,
  prompt_writer,
  real_images,
  released_clip,
  released_generator,
  released_glide,
  released_t5,
  report,
  unknown_names,
)

WRITERS = ("grammar", "t5", "qwen3")  # of prompts


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = parse_arg(
    arg,
    runlocal=False,
    space="",  # cifar10 or, with runlocal, emoji16
    generators="",  # glide+sdxl_turbo+flux2_klein, or all embedded presets
    guidance="",  # 2 or, with runlocal, 1
    prompts="basic+grammar",
    images_per_class=0,  # 100 or, with runlocal, 10
    encoder="rn50",
    validation=None,
    test=None,
    resnet=False,
    data_dir=None,
  )
  num_images = arg.images_per_class or (10 if arg.runlocal else 100)
  config = ml_collections.ConfigDict()
  config.tasks = ("bakeoff", "report")
  config.seed = 0
  config.space = arg.space or "cifar10"

  # What all candidates have; their own blocks stand in place of these.
  config.prompts = prompts_of(arg, num_images, "grammar")
  config.generator = released_glide()
  config.generate = dict(
    images_per_class=num_images, seeds=(0, 1, 2), shard_size=4096
  )
  config.encoder = clip_encoder(arg.encoder)
  config.score = dict()
  if arg.encoder != "rn50":  # it filters, whatever is tuned
    config.score.filter_encoder = released_clip("clip_rn50")
  config.select = dict(max_per_class=max(1, 2 * num_images // 5))
  if arg.resnet:
    config.pretrain = embedded_pretraining()["pretrain"] | dict(
      filter=True, augment="shift", seeds=(0, 1, 2)
    )
  # Appendix C.5.1.
  recipe = dict(
    num_epochs=30,
    batch_size=512,
    lr=2e-3,
    weight_decay=0.1,
    clip_norm=1.0,
    temperature=2.0,
  )
  names = (arg.generators or "glide+sdxl_turbo+flux2_klein").split("+")
  scales = arg.guidance or "2"
  if arg.runlocal:  # in place of any other generator
    for name in names:
      check_generator(name, *EMBEDDED_PRESETS)
    names = [n for n in names if n in EMBEDDED_PRESETS] or [*EMBEDDED_PRESETS]
    scales = arg.guidance or "1"  # none
  config.bakeoff = dict(
    candidates=tuple(
      dict(
        name=f"{generator}, {prompts}",
        generator=block,
        prompts=prompts_of(arg, num_images, prompts),
      )
      for name in names
      for generator, block in guided(arg, name, scales)
      for prompts in arg.prompts.split("+")
    ),
    validation=images_of(arg, "validation", "train"),
    test=images_of(arg, "test", "test"),
    seeds=(0, 1, 2),  # a head learns from the images of its seed
    soft_weight=0.5,
    **recipe,
    # As in zeroshot.py.
    big_run=dict(
      prompts=dict(per_class=200),
      generate=dict(images_per_class=2000, seeds=(0,)),
      select=dict(max_per_class=800),
      tune=dict(
        arms=(dict(name="CF SCE", filter=True, soft_weight=0.5),),
        validation=images_of(arg, "validation", "train"),
        test=images_of(arg, "test", "test"),
        seeds=(0, 1, 2, 3, 4),
        **recipe,
      ),
    ),
  )
  config.export = exports()
  config.report = report()

  if arg.runlocal:  # comes last, so that it can shrink anything above
    config.space = arg.space or "emoji16"
    for block, fields in embedded_world().items():
      config[block] = fields
    config.score = dict()
    # The big run has the size of quickstart.py's.
    config.generate.shard_size = 480
    config.select.max_per_class = embedded_kept(num_images)
    if arg.resnet:
      config.pretrain.augment = "drawing"
    big = config.bakeoff.big_run
    for block in (config.bakeoff, big.tune):
      block.update(EMBEDDED_HEAD)
    big.prompts.per_class = 30
    big.generate.images_per_class = 30
    big.select.max_per_class = embedded_kept(30)
  return config


def prompts_of(arg, num_images: int, name: str) -> dict:
  """Returns the block `prompts`, of as many texts of a class as images."""
  if name in ("basic", "template"):
    return dict(strategies=(name,))
  is_path = {*"/."} & {*name}  # or of the hub
  if name not in WRITERS and not is_path:
    kind = "kind of prompts, nor file of texts (*.jsonl),"
    raise unknown_names(kind, [name], ("basic", "template", *WRITERS))
  block = dict(strategies=("enhanced",), per_class=num_images)
  if name == "grammar":
    return block | dict(grammar="drawing" if arg.runlocal else "photo")
  writer = released_t5(arg.space) if name == "t5" else prompt_writer(name)
  return block | dict(writer=writer)


def guided(arg, name: str, scales: str):
  """Yields the name and the block of a generator with each of its scales."""
  if arg.runlocal:
    block = embedded_world(preset=name)["generator"]
  elif name == "glide":
    block = released_glide()
  elif "/" in name:
    block = hub_generator(name)
  else:
    check_generator(name)
    block = released_generator(name)
  yield name, block
  own = block.get("guidance_scale", 1.0)
  if own == 1.0 or "distilled" in block:  # it walks without
    return
  for scale in numbers(scales):
    if scale != own:
      yield f"{name}, guidance {scale:g}", block | dict(guidance_scale=scale)


def check_generator(name: str, *more: str) -> None:
  """Raises UserError about a name that is none, but one of the hub's."""
  allowed = ("glide", *HUB_GENERATORS, *more)
  if name not in allowed and "/" not in name:
    raise unknown_names("generator", [name], (*allowed, "hf://ORG/NAME"))


def numbers(scales: str) -> list[float]:
  try:
    return [float(scale) for scale in scales.split("+")]
  except ValueError:
    raise UserError(
      f"Config argument guidance={scales}: needed numbers, such as 1.5+5."
    ) from None


def images_of(arg, split: str, of_set: str):
  """Returns the images that are given, or those of the space's data set."""
  given, space = getattr(arg, split), arg.space or "cifar10"
  if given or {*"./"} & {*space}:  # the file of a space has no images
    return real_images(given)
  if arg.runlocal:
    return dict(split=split)
  return data_set(space, of_set, arg.data_dir)

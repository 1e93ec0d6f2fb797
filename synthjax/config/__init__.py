"""What the files of configs/ import: their argument, and shared blocks.

| module       | subject                                              |
| ------------ | ---------------------------------------------------- |
| config_files | finds and loads configs                              |
| arguments    | a config as a whole: which fields it may have        |
| schema       | one block: a dataclass, and all its problems at once |
"""

import types
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections.config_dict import FieldReference, placeholder

from synthjax.runtime.errors import UserError, unknown_names

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
  """Reads the "runlocal,shots=16" behind the colon of --config=FILE:...

  Args:
    arg: names and values, separated by commas; a name alone means True. None
      and "" change nothing.
    **defaults: every name with its default. A value is read as the type of
      its default, bool, int, float or str; one whose default is None stays a
      str.

  Returns:
    A namespace of all names, so that `arg.shots` is 16.

  Raises:
    UserError: about an unknown name, a name given twice, or a bad value.
  """
  values = {}
  given = [item.partition("=") for item in (arg or "").split(",") if item]
  names = [name.strip() for name, _, _ in given]
  if unknown := [name for name in names if name not in defaults]:
    raise unknown_names("config argument", unknown, defaults)
  for name, (_, equals, text) in zip(names, given, strict=True):
    if name in values:
      raise UserError(f"Config argument {name!r} is given twice in {arg!r}.")
    if not equals and not isinstance(defaults[name], bool):
      raise UserError(
        f"Config argument {name!r} needs a value: "
        f"{name}={defaults[name]} is its default."
      )
    text = text.strip() if equals else "true"
    values[name] = _read_value(name, text, defaults[name])
  return types.SimpleNamespace(**defaults | values)


def _read_value(name: str, text: str, default: Any) -> Any:
  kind = str if default is None else type(default)
  if kind not in (bool, int, float, str):
    raise TypeError(f"{name}={default!r}: only bool, int, float and str work.")
  try:
    return _BOOLS[text.lower()] if kind is bool else kind(text)
  except (KeyError, ValueError):
    raise UserError(
      f"Config argument {name}={text} is not of type {kind.__name__}; "
      f"its default is {default}."
    ) from None


# --- blocks of generators, encoders and writers: released or embedded ---------

# How a released GLIDE walks: sampler and respacing of the base and upsampler.
# "fast" has a fifth of the base's steps and a third of the upsampler's. In the
# embedded world we chose the equivalent preset, by the accuracy of classifiers
# trained on its images; we have not run it with the released weights.
PRESETS = {
  "paper": (("ancestral", "100"), ("ddim", "fast27")),
  "fast": (("dpmpp_2m", "logsnr20"), ("dpmpp_2m", "logsnr10")),
}
EMBEDDED_PRESETS = {
  # The noisiest steps are left out: a short training hardly learns them.
  "paper": (("ddim", "12<960"), ("ddim", "4<250")),
  "fast": (("dpmpp_2m", "logsnr6<960"), ("dpmpp_2m", "2<250")),
}


def _walks(presets: Mapping[str, Any], preset: str) -> list[dict[str, str]]:
  """Returns the fields `sampler` and `respacing` of the base and upsampler."""
  if preset not in presets:
    raise unknown_names("preset", [preset], presets)
  return [
    dict(sampler=sampler, respacing=respacing)
    for sampler, respacing in presets[preset]
  ]


def released_glide(preset: str = "paper") -> dict[str, Any]:
  """Returns the block `generator`: the released GLIDE.

  Each device draws as many images at once as its memory holds.

  Args:
    preset: a key of PRESETS.
  """
  base, upsampler = _walks(PRESETS, preset)
  return dict(
    name="glide",
    base=dict(weights="released:glide/base.safetensors", **base),
    upsampler=dict(weights="released:glide/upsampler.safetensors", **upsampler),
    tokenizer="released:glide/tokenizer.json",
    guidance_scale=3.0,
    dtype="bfloat16",
  )


def released_clip(name: str = "clip_rn50") -> dict[str, Any]:
  """Returns the block `encoder` of a released CLIP.

  Args:
    name: that `python -m synthjax.weights fetch NAME` takes.
  """
  return dict(
    name="clip",
    weights=f"released:{name}/clip.safetensors",
    tokenizer=f"released:{name}/tokenizer.json",
    batch_size=128,  # of eight devices together, the images that are read ahead
    dtype="float32",
  )


def released_siglip(name: str = "siglip2_vit_b16") -> dict[str, Any]:
  """Returns the block `encoder` of a released SigLIP 2.

  Args:
    name: that `python -m synthjax.weights fetch NAME` takes.
  """
  return released_clip() | dict(
    name="siglip",
    weights=f"released:{name}/siglip.safetensors",
    tokenizer=f"released:{name}/tokenizer.json",
  )


def hub_clip(place: str) -> dict[str, Any]:
  """Returns the block `encoder` of a CLIP of the Hugging Face hub.

  Args:
    place: such as "hf://openai/clip-vit-base-patch32".
  """
  return dict(name="clip", weights=place, batch_size=128, dtype="float32")


def hub_generator(place: str) -> dict[str, Any]:
  """Returns the block `generator` of a generator of the Hugging Face hub.

  Args:
    place: "hf://org/name", a repository in diffusers' layout. Those of
      HUB_GENERATORS have their fields, as guidance would spoil Turbo's images.
      All others are of Stable Diffusion.
  """
  for name, block in HUB_GENERATORS.items():
    if (
      block["weights"] == place.split("@")[0].rstrip("/")
      and "distilled" not in block
    ):
      return released_generator(name) | dict(weights=place)
  return dict(
    name="stable_diffusion",
    weights=place,
    sampler="dpmpp_2m",
    respacing=20,
    guidance_scale=7.5,
    dtype="bfloat16",
  )


_XL = "hf://stabilityai/stable-diffusion-xl-base-1.0"
_LIGHTNING = (
  "hf://ByteDance/SDXL-Lightning/sdxl_lightning_{}_unet{}.safetensors"
)


def _lightning(steps: int) -> dict[str, Any]:
  """Returns fields of SDXL-Lightning, whose files are for a number of steps."""
  fields = dict(weights=_XL, sampler="euler", respacing=steps)
  if steps == 1:  # the one file that predicts x_0
    place = _LIGHTNING.format("1step", "_x0")
    return fields | dict(distilled=place, distilled_prediction="sample")
  return fields | dict(distilled=_LIGHTNING.format(f"{steps}step", ""))


# As their publishers use them. Guidance is that of steps that the base takes.
SDXL = {
  "sdxl": dict(weights=_XL, sampler="euler", respacing=30),
  "sdxl_lightning_1": _lightning(1),
  "sdxl_lightning_2": _lightning(2),
  "sdxl_lightning_4": _lightning(4),
  "sdxl_lightning_8": _lightning(8),
  "sdxl_turbo": dict(
    weights="hf://stabilityai/sdxl-turbo",
    sampler="euler_ancestral",
    spacing="trailing",
    respacing=4,
    guidance_scale=1.0,
  ),
}


def sdxl(name: str = "sdxl") -> dict[str, Any]:
  """Returns the block `generator` of a released SDXL.

  Args:
    name: a key of SDXL.
  """
  block = dict(name="stable_diffusion", guidance_scale=5.0, batch_size=4)
  return block | dict(dtype="bfloat16") | SDXL[name]


_KLEIN = "hf://black-forest-labs/FLUX.2-klein-{}4B"
# As their publisher uses them. The distilled one walks without guidance.
FLUX2 = {
  "flux2_klein": dict(weights=_KLEIN.format(""), respacing=4),
  "flux2_klein_base": dict(
    weights=_KLEIN.format("base-"), respacing=50, guidance_scale=4.0
  ),
}


def flux2(name: str = "flux2_klein") -> dict[str, Any]:
  """Returns the block `generator` of a released FLUX.2-klein.

  Args:
    name: a key of FLUX2.
  """
  block = dict(name="flux2", sampler="euler", batch_size=4, dtype="bfloat16")
  return block | FLUX2[name]


HUB_GENERATORS = SDXL | FLUX2


def released_generator(name: str) -> dict[str, Any]:
  """Returns the block `generator` of a key of HUB_GENERATORS."""
  return (flux2 if name in FLUX2 else sdxl)(name)


CLIP_ENCODERS = ("rn50", "vit_b16")  # the paper's


def clip_encoder(name: str) -> dict[str, Any]:
  """Returns the block `encoder` that the argument `encoder` of configs names.

  Args:
    name: of CLIP_ENCODERS; or any CLIP or SigLIP 2 that `synthjax weights list`
      names; or, with a slash in it, a place of `hub_clip`.
  """
  if "/" in name:
    return hub_clip(name)
  if name.startswith("siglip2_"):
    return released_siglip(name)
  if not name.startswith("clip_") and name not in CLIP_ENCODERS:
    raise unknown_names("encoder", [name], CLIP_ENCODERS)
  return released_clip(f"clip_{name.removeprefix('clip_')}")


def released_t5(space: str) -> dict[str, Any]:
  """Returns the block `prompts.writer` of the paper's language model.

  The authors' labels of EuroSAT have an article, "a River", ...
  """
  return dict(
    name="t5",
    weights="released:t5_common_gen/t5.safetensors",
    tokenizer="released:t5_common_gen/spiece.model",
    article=space == "eurosat",
  )


def prompt_writer(name: str) -> str | dict[str, Any]:
  """Returns the block `prompts.writer` of a model, or of a file of texts.

  Args:
    name: "qwen3", Qwen3-4B; or "hf://ORG/NAME", any Qwen3; or the path of JSON
      lines, see `prompts.file_writer`; or "grammar".
  """
  if name == "grammar":
    return name
  if name == "qwen3":
    name = "hf://Qwen/Qwen3-4B"
  if name.startswith("hf://"):
    return dict(name="qwen3", weights=name)
  return dict(name="file", path=name)


CLIPS = {"vit": "clip", "resnet": "clip_resnet"}


# How a head of the embedded CLIP learns, and what its filter keeps: chosen on
# the validation style. The paper has batches of 512 of 8,000 images, a rate of
# 2e-3 for features of more dimensions and longer rows, and keeps two fifths.
EMBEDDED_HEAD = dict(batch_size=32, lr=1e-1)
EMBEDDED_KEPT = 0.9  # a filter as weak as this CLIP should drop less


def embedded_kept(images_per_class: int) -> int:
  """Returns how many images of a class the embedded CLIP's filter keeps."""
  return max(1, int(EMBEDDED_KEPT * images_per_class))


def embedded_world(tower: str = "vit", preset: str = "paper") -> dict[str, Any]:
  """Returns the blocks `generator` and `encoder` of the embedded world.

  Small models that the package holds; what they were trained on and how they
  are sampled was chosen on the validation style.

  Args:
    tower: of the encoder's images, "vit" or "resnet".
    preset: of the generator, a key of EMBEDDED_PRESETS.
  """
  base, upsampler = _walks(EMBEDDED_PRESETS, preset)
  tokenizer = "embedded:tokenizer.json"
  generator = dict(
    name="glide",
    base=dict(weights="embedded:base.safetensors", **base),
    upsampler=dict(
      weights="embedded:upsampler.safetensors", start="low_res", **upsampler
    ),
    tokenizer=tokenizer,
    guidance_scale=3.0,
    batch_size=64,
    dtype="float32",
  )
  encoder = dict(
    name="clip",
    weights=f"embedded:{CLIPS[tower]}.safetensors",
    tokenizer=tokenizer,
    batch_size=64,
  )
  return dict(generator=generator, encoder=encoder)


# --- small blocks that most configs have -------------------------------------


# Arguments of configs: paths of the photographs that they are about.
PHOTOGRAPHS = dict(train=None, validation=None, test=None)
_SHARE = 0.2  # of photographs without splits that becomes each but "train"


def real_images(path: str | None) -> dict[str, Any] | FieldReference:
  """Returns the photographs at a path, or a field that is None without one.

  A command line can give it, such as
  --config.tune.test="{'kind': 'folder', 'path': 'photos'}".
  """
  return dict(kind="folder", path=path) if path else placeholder(object)


def photographs(arg: Any) -> dict[str, dict[str, Any]]:
  """Returns the blocks of the splits that the arguments PHOTOGRAPHS give.

  Where one path is of several splits and its files have none, a fifth of the
  images becomes the validation or the test. Without `test`, it is of the path
  of `train`.

  Args:
    arg: as of `parse_arg`, with the names of PHOTOGRAPHS.

  Raises:
    UserError: about a test or a validation without `train`.
  """
  paths = {name: getattr(arg, name) for name in PHOTOGRAPHS}
  if not paths["train"]:
    if given := [f"{name}={path}" for name, path in paths.items() if path]:
      raise UserError(
        f"{' and '.join(given)} without `train`: there is nothing to learn "
        "from. Give train=PATH too; one path may serve all of them."
      )
    return {}
  paths["test"] = paths["test"] or paths["train"]
  blocks = {}
  for split, path in paths.items():
    if path:
      blocks[split] = dict(kind="folder", path=path, split=split)
      same = [s for s in paths if paths[s] == path and s != "train"]
      if paths["train"] == path and same:
        blocks[split]["shares"] = dict.fromkeys(same, _SHARE)
  return blocks


def own_space(arg: Any) -> str | None:
  """Returns the label space of the photographs, None if there are none.

  Args:
    arg: as of `parse_arg`, with `labels` and the names of PHOTOGRAPHS.

  Raises:
    UserError: about photographs without labels, and labels without them.
  """
  if bool(arg.train) != bool(arg.labels):
    given, lacking = ("train", "labels")[:: 1 if arg.train else -1]
    raise UserError(
      f"{given}={getattr(arg, given)} without `{lacking}`: photographs need "
      "both, train=PATH of the images, and labels=FILE.yaml, a list of the "
      "names of their classes, such as [kingfisher, heron]."
    )
  return arg.labels


def use_photographs(config: Any, arg: Any, *, aware: bool = False) -> None:
  """Lets `transfer` learn from the photographs that arguments give, if any.

  Args:
    config: with `transfer`, and maybe `pretrain`.
    arg: see `own_space`.
    aware: whether the classes are also those of the generated images.
  """
  blocks, space = photographs(arg), own_space(arg)
  if not blocks:
    return
  config.transfer.space, config.transfer.shots = space, (None,)
  replace_images(config.transfer, blocks)
  if aware:
    config.space = space
    replace_images(config.pretrain, blocks, ("validation",))
  config.report = report()  # the paper has no such row


def replace_images(
  block: Any,
  images: Mapping[str, Any],
  splits: Iterable[str] = ("train", "validation", "test"),
) -> None:
  """Puts other images into a block, and none where there are no others."""
  for split in splits:
    if split in block:
      del block[split]  # an assignment would keep its fields
    if split in images:
      block[split] = images[split]


def exports() -> dict[str, Any]:
  """Returns config.export, which writes no format until some are asked for.

  For a workdir that is finished: --config.tasks="('export',)"
  --config.export.formats=webdataset,png_folder
  """
  return dict(formats=())


def report(**fields: Any) -> dict[str, Any]:
  """Returns config.report; any field of it can be given in place."""
  return dict(samples_per_class=8) | fields


# --- the blocks of pre-training and finetuning that several configs share ----


def data_set(
  name: str, split: str, data_dir: str | None = None
) -> dict[str, Any]:
  """Returns a block of real images: a split of a data set of the paper.

  Args:
    name: of the data set, as `python -m synthjax.datasets list` has it.
    split: train, validation or test.
    data_dir: the folder of the data sets; by default that of the command.
  """
  block = dict(kind="benchmark", name=name, split=split)
  return block | (dict(data_dir=data_dir) if data_dir else {})


def finetuning_on_cifar100() -> dict[str, Any]:
  """Returns what `transfer` needs besides the images (Appendix C.5.3).

  It gives neither the resolution nor the stem: pre-trained weights have the
  stem of ImageNet, so the images are enlarged.
  """
  return dict(
    inits=dict(random=dict(), pretrained=dict()),
    shots=(None,),  # all 50,000
    seeds=(0,),
    image_size=224,
    augment="shift",  # crop of a padded image, flip
    epochs=200,
    batch_size=128,
    optimizer=dict(
      name="sgd",
      lr=0.003,
      drops=(60, 120, 160),
      drop_factor=0.2,
      weight_decay=5e-4,
    ),
    log_every=50,
    checkpoint_every=2_500,
  )


_DEIT = dict(
  augment="none",  # the device crops, too
  source_size=256,
  mix=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0),
)


def use_deit_recipe(config: Any) -> None:
  """Puts DeiT's recipes into the blocks `pretrain` and `transfer`."""
  config.pretrain.update(
    recipe="deit",
    ema_decay=placeholder(float),  # they report the model that is not averaged
    repeats=3,
    device_augment="deit",
    **_DEIT,
  )
  config.pretrain.model.drop_path = 0.1
  use_deit_finetuning(config)


def use_deit_finetuning(config: Any) -> None:
  """Puts DeiT's finetuning into `transfer`; the paper states none."""
  for name in ("epochs", "batch_size", "optimizer"):  # the recipe has its own
    del config.transfer[name]
  config.transfer.update(
    recipe="deit_finetune",
    model=dict(name="deit_s", dtype="bfloat16"),  # no drop path
    device_augment="deit_finetune",
    repeats=3,
    crop=0.875,  # measured at 224 of 256 px
    **_DEIT,
  )


def embedded_pretraining(
  *, vit: bool = False, preset: str = "paper"
) -> dict[str, Any]:
  """Returns all blocks of a pre-training in the embedded world.

  Args:
    vit: trains a small ViT in place of a small ResNet.
    preset: of the generator, a key of EMBEDDED_PRESETS.
  """
  model = dict(name="resnet_tiny", stem="imagenet", width=32)
  # Of 0.01, 0.03, 0.1 and 0.3, one of the two best on the validation style for
  # either start; sanity_pretrain.py searches.
  optimizer = dict(name="sgd", lr=0.1, weight_decay=5e-4)
  if vit:
    model = dict(name="vit_tiny")
    optimizer = dict(name="adamw", lr=1e-3, weight_decay=0.05, warmup=30)
  common = dict(
    image_size=32,
    augment="drawing",
    optimizer=optimizer,
    validation=dict(split="validation"),
    num_workers=0,  # to start some takes longer than these images
    log_every=20,
  )
  return dict(
    space="emoji16",
    prompts=dict(strategies=("enhanced",), per_class=24, grammar="drawing"),
    generator=embedded_world(preset=preset)["generator"],
    generate=dict(images_per_class=24, seeds=(0,), shard_size=128),
    pretrain=dict(
      model=model,
      filter=False,
      seeds=(0,),
      epochs=40,
      batch_size=64,
      checkpoint_every=100,
      **common,
    ),
    transfer=dict(
      train=dict(split="real_pool"),
      test=dict(split="test"),
      inits=dict(random=dict(), pretrained=dict()),
      shots=(16,),
      seeds=(0, 1, 2),
      epochs=30,
      batch_size=32,
      checkpoint_every=1_000,  # a run takes seconds: its end alone
      **common,
    ),
  )

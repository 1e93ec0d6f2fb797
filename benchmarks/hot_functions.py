"""The functions that accelerators spend their time in, with shapes alone.

Each is a function and arguments of `jax.ShapeDtypeStruct`, so that nothing is
computed and no memory is taken. TINY has the sizes of the tests: small
networks, but with the widths of heads, odd lengths and types of the full ones,
on which the choice of a kernel depends. FULL has those that are measured.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import detection_inputs
from benchmarks.glide_stages import RELEASED, Stage
from benchmarks.made_up import repeated_noise
from synthjax.adapt import linear_head
from synthjax.config import PRESETS
from synthjax.detection import faster_rcnn
from synthjax.detection import objective as detection
from synthjax.diffusion import samplers, schedule
from synthjax.encoders.resize import fit_images
from synthjax.generators import glide
from synthjax.models import attention
from synthjax.models.classifiers import make_classifier
from synthjax.models.clip import model as clip
from synthjax.models.glide.model import Glide, Text
from synthjax.models.glide.noised_clip import ImageEncoder
from synthjax.models.stable_diffusion import unet as sd_unet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.t5 import model as t5_model
from synthjax.prompts import t5_writer
from synthjax.tasks import train_generator
from synthjax.training import (
  contrastive,
  denoising,
  device_augment,
  mixup,
  optimizer,
  recipes,
  supervised,
)
from synthjax.training import moco as moco_v2

PLATFORMS = ("cuda", "tpu")


class Hot(NamedTuple):
  """A function as it is compiled."""

  function: Callable
  args: tuple
  donated: int | None = None  # the argument whose memory the result takes


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
  """Lets the package choose kernels as on an H100, or on a TPU.

  JAX asks the machine which cuDNN it has; the answers are those of an H100 with
  cuDNN 9.19.
  """
  from jax._src.cudnn import fused_attention_stablehlo as fused

  kernel_for, on_gpu = attention.kernel_for, platform == "cuda"
  device = SimpleNamespace(platform="gpu" if on_gpu else platform)
  if on_gpu:
    device.compute_capability = "9.0"
  with contextlib.ExitStack() as stack:
    for owner, name, value in (
      (jax, "default_backend", lambda: "gpu" if on_gpu else platform),
      (
        attention,
        "kernel_for",
        lambda dtype, d, _: kernel_for(dtype, d, device),
      ),
      (fused, "check_cudnn_version", lambda: 91900),
      (fused, "check_compute_capability", lambda least: float(least) <= 9.0),
      (fused, "is_cuda_compute_capability_equal", lambda it: it == "9.0"),
    ):
      stack.enter_context(mock.patch.object(owner, name, value))
    yield


def lower(hot: Hot, platform: str) -> Any:
  """Lowers a function for a platform that need not be there."""
  with traced_for(platform):
    function = jax.jit(hot.function, donate_argnums=hot.donated)
    return function.trace(*hot.args).lower(lowering_platforms=(platform,))


def fill(hot: Hot) -> tuple:
  """Returns arguments for a function: noise, and norms as they start.

  Whole numbers are 0 but for pixels, so that each label is a class and each
  token a word. Images of detection have objects.
  """
  rng = np.random.default_rng(0)
  noise = repeated_noise(rng)

  def leaf(path, x):
    name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.split(jax.random.key(0), x.shape)
    if x.dtype == jnp.uint8:
      return rng.integers(0, 256, x.shape, np.uint8)
    if name in ("scale", "var"):
      return np.ones(x.shape, x.dtype)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return np.zeros(x.shape, x.dtype)
    values = noise(x.shape)
    return values.astype(x.dtype)

  def with_objects(arg):
    if not (isinstance(arg, dict) and "size" in arg):
      return arg
    n, *sides, _ = arg["image"].shape
    places = arg["boxes"].shape[1] if "boxes" in arg else 3
    made = detection_inputs.make_batch(n, *sides, places=places)
    return {name: made[name] for name in arg}

  filled = jax.tree_util.tree_map_with_path(leaf, hot.args)
  return tuple(map(with_objects, filled))


# --- shapes -------------------------------------------------------------------


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


_images = partial(_array, dtype=jnp.uint8)
_tokens = partial(_array, dtype=jnp.int32)
_RNG = jax.eval_shape(lambda: jax.random.key(0))


def _rngs(n: int) -> jax.ShapeDtypeStruct:
  return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), n))


def _step(objective: Any, batch: Mapping) -> Hot:
  """Returns a training step, whose state is donated."""
  state = jax.eval_shape(objective.init, _RNG, batch)
  return Hot(objective.step, (state, batch, _RNG), donated=0)


def _optimizer(recipe: str) -> Any:
  stated = recipes.RECIPES[recipe]
  return optimizer.make_optimizer(
    num_steps=10**5, epochs=stated["epochs"], **stated["optimizer"]
  )


# --- drawing ------------------------------------------------------------------


def _init_glide(stage: Stage, dtype: str) -> tuple[Glide, Any]:
  model = Glide(**stage.sizes, dtype=jnp.dtype(dtype))
  side = 2 ** (len(model.channel_mult) - 1)  # the smallest that works
  images, tokens = _array(1, side, side, 3), _tokens(1, model.text_context)
  low_res = images if stage.low_res else None
  time = _tokens(1)
  variables = jax.eval_shape(
    model.init, _RNG, images, time, tokens, tokens, low_res
  )
  return model, variables["params"]


def _text(model: Glide, n: int) -> Text:
  pooled = _array(n, 4 * model.model_channels)
  shape = n, model.text_context, model.text_width
  return Text(pooled, _array(*shape, dtype=model.dtype))


def draw_glide(
  batch: int, stages: Mapping[str, Stage], *, preset: str, dtype="bfloat16"
) -> Hot:
  """Draws a batch from noise to uint8 images, by both networks."""
  params, texts, walks = {}, {"adapters": {}}, []
  named = zip(glide.STAGES, PRESETS[preset], strict=True)
  for name, (sampler, respacing) in named:
    stage = stages[name]
    model, params[name] = _init_glide(stage, dtype)
    prompts = batch if stage.low_res else 2 * batch  # the base is guided
    texts[name] = _text(model, prompts)
    betas = schedule.BETAS[stage.betas]()
    steps = schedule.respace(betas, respacing)
    walk, start = samplers.SAMPLERS[sampler], None
    walks.append(
      glide.Stage(model, stage.image_size, betas, steps, walk, start)
    )
  cascade = glide.Cascade(*walks, clip=None, scale=3.0, interval=None)

  def draw(params, texts, rngs):
    small = glide._draw_small(cascade, None, params, texts, rngs, None)
    return glide._enlarge(cascade, params, texts, rngs, small)

  return Hot(draw, (params, texts, _rngs(batch)))


def glide_step(batch: int, stage: Stage, *, dtype="bfloat16") -> Hot:
  """Predicts the noise once, by one network; the base for 2n prompts."""
  model, params = _init_glide(stage, dtype)
  n, side = batch if stage.low_res else 2 * batch, stage.image_size
  low_res = stage.low_res and _array(n, stage.low_res, stage.low_res, 3)
  predict = partial(model.apply, method="predict")
  inputs = _array(n, side, side, 3), _tokens(n), _text(model, n), low_res
  return Hot(predict, ({"params": params}, *inputs))


def guide_by_clip(batch: int, *, dtype="bfloat16", **sizes: Any) -> Hot:
  """Takes the gradient of GLIDE's noised CLIP by the images."""
  model = ImageEncoder(**sizes, dtype=jnp.dtype(dtype))
  side = model.image_size
  inputs = lambda n: (_array(n, side, side, 3), _tokens(n))
  variables = jax.eval_shape(model.init, _RNG, *inputs(1))

  def similarity(x, variables, t, features):
    return jnp.vdot(model.apply(variables, x, t), features)

  x, t = inputs(batch)
  features = _array(batch, model.embed_dim)
  return Hot(jax.grad(similarity), (x, variables, t, features))


def stable_diffusion_step(
  batch: int, *, side: int, tokens: int = 77, dtype="bfloat16", **sizes: Any
) -> Hot:
  """Predicts the noise of latents once, with and without the prompt."""
  model = sd_unet.UNet(**sizes, dtype=jnp.dtype(dtype))
  n, least = 2 * batch, 2 ** (len(model.widths) - 1)

  def inputs(n, side):
    latents = _array(n, side, side, model.in_channels)
    given = [latents, _tokens(n), _array(n, tokens, model.context_dim)]
    if model.pooled_dim:
      given += [_array(n, model.pooled_dim), _array(n, 6)]
    return given

  variables = jax.eval_shape(model.init, _RNG, *inputs(1, least))
  return Hot(model.apply, (variables, *inputs(n, side)))


def decode_latents(batch: int, *, side: int, **sizes: Any) -> Hot:
  """Turns Stable Diffusion's latents into images."""
  model = Autoencoder(**sizes)
  variables = jax.eval_shape(model.init, _RNG, _array(1, 64, 64, 3))
  latents = _array(batch, side, side, model.latent_channels)
  return Hot(partial(model.apply, method="decode"), (variables, latents))


def read_texts(batch: int, *, length: int, dtype="bfloat16", **sizes) -> Hot:
  """Encodes names by T5."""
  model = t5_model.T5(**sizes, dtype=jnp.dtype(dtype))
  shape = lambda n: (_tokens(n, length), _array(n, length, dtype=bool))
  encode = partial(model.apply, method="encode")
  variables = jax.eval_shape(
    partial(model.init, method="encode"), _RNG, *shape(1)
  )
  return Hot(encode, (variables, *shape(batch)))


def write_sentences(
  batch: int, *, length: int, dtype="float32", **sizes: Any
) -> Hot:
  """Writes sentences of 20 tokens by T5, from encoded names."""
  model = t5_model.T5(**sizes, dtype=jnp.dtype(dtype))
  encoded = lambda n: _array(n, length, model.d_model, dtype=model.dtype)
  mask = lambda n: _array(n, length, dtype=bool)
  init = partial(model.init, method="decode")
  variables = jax.eval_shape(init, _RNG, _tokens(1, 4), encoded(1), mask(1))
  write = partial(t5_writer.write_tokens, model, top_k=50, top_p=0.95)
  return Hot(write, (variables, encoded(batch), mask(batch), _rngs(batch)))


# --- encoding -----------------------------------------------------------------


def _init_clip(model: clip.CLIP) -> Any:
  side = model.image_size
  tokens = _tokens(1, model.context_length)
  return jax.eval_shape(model.init, _RNG, _array(1, side, side, 3), tokens)


def encode_images(batch: int, model: clip.CLIP, *, side: int) -> Hot:
  """Resizes uint8 images as CLIP does, and encodes them as encoders do."""

  def encode(variables, images):
    images = clip.preprocess(fit_images(images, model.image_size))
    with jax.default_matmul_precision("highest"):
      return model.apply(variables, images, method="encode_image")

  return Hot(encode, (_init_clip(model), _images(batch, side, side, 3)))


def encode_texts(batch: int, model: clip.CLIP) -> Hot:
  """Encodes texts by CLIP."""
  function = partial(model.apply, method="encode_text")
  tokens = _tokens(batch, model.context_length)
  return Hot(function, (_init_clip(model), tokens))


# --- learning -----------------------------------------------------------------


def classify_step(
  batch: int,
  name: str,
  *,
  recipe: str,
  side: int,
  source: int | None = None,
  augment: str = "none",
  mixed: bool = False,
  dtype="bfloat16",
  **sizes: Any,
) -> Hot:
  """Trains a classifier for one step, augmentation included."""
  cropped = source is not None
  objective = supervised.supervised(
    make_classifier(name, num_classes=1000, dtype=dtype, **sizes),
    _optimizer(recipe),
    label_smoothing=0.1,
    augment=device_augment.make_augment(
      augment, crop=cropped, image_size=side if cropped else None
    ),
    mix=partial(mixup.mix, mixup_alpha=0.8, cutmix_alpha=1.0)
    if mixed
    else None,
  )
  side = source or side
  images, labels = _images(batch, side, side, 3), _tokens(batch)
  return _step(objective, {"image": images, "label": labels})


def moco_step(
  batch: int, *, side: int, source: int, dtype="bfloat16", **options: Any
) -> Hot:
  """Trains a ResNet without labels for one step, both views included."""
  sizes = {k: options.pop(k) for k in ("stage_sizes", "width") if k in options}
  encoder = make_classifier(
    "resnet50", num_classes=128, dtype=dtype, head="mlp", **sizes
  )
  augment = device_augment.make_augment("moco_v2", crop=True, image_size=side)
  objective = moco_v2.moco(
    encoder, _optimizer("moco_v2"), augment=augment, **options
  )
  return _step(objective, {"image": _images(batch, source, source, 3)})


def _detector(dtype: str, **sizes: Any) -> Any:
  return faster_rcnn.make_detector(
    "resnet50", num_classes=20, dtype=dtype, **sizes
  )


def _pictures(n: int, height: int, width: int) -> dict[str, Any]:
  objects = 56  # places for the most in an image of VOC
  return {
    "image": _images(n, height, width, 3),
    "size": _tokens(n, 2),
    "boxes": _array(n, objects, 4),
    "labels": _tokens(n, objects),
    "valid": _array(n, objects, dtype=bool),
  }


def detect_step(
  batch: int, *, shape: tuple[int, int], dtype="bfloat16", **sizes: Any
) -> Hot:
  """Trains a detector for one step."""
  objective = detection.detection(
    _detector(dtype, **sizes), _optimizer("voc_detection")
  )
  return _step(objective, _pictures(batch, *shape))


def detect(
  batch: int, *, shape: tuple[int, int], dtype="bfloat16", **sizes: Any
) -> Hot:
  """Finds the objects in a batch of images."""
  model = _detector(dtype, **sizes)
  variables = jax.eval_shape(
    model.init,
    _RNG,
    _array(1, 64, 64, 3),
    _array(1, 1, 4),
    _array(1, 1, dtype=bool),
  )
  pictures = _pictures(batch, *shape)
  inputs = {name: pictures[name] for name in ("image", "size")}
  return Hot(detection.predictor(model), (variables, inputs))


def tune_head(
  rows: int, *, width: int, classes: int, epochs: int, batch: int = 512
) -> Hot:
  """Tunes a linear classifier on stored features, whole."""
  held_out = _array(1000, width), _tokens(1000)
  index = _tokens(epochs * -(-rows // batch), batch)
  head = linear_head.Head(_array(classes, width), _array(classes))

  def tune(features, labels, index, head, held_out):
    sets = [linear_head.Rows(features, labels, index)]
    return linear_head.tune(sets, head, validation=held_out, num_epochs=epochs)

  features = _array(rows, width)
  return Hot(tune, (features, _tokens(rows), index, head, held_out))


def denoise_step(batch: int, stage: Stage, *, dtype="bfloat16") -> Hot:
  """Trains one of the embedded generator's networks for a step."""
  model = Glide(**stage.sizes, dtype=jnp.dtype(dtype))
  objective = denoising.denoising(
    partial(train_generator._apply, model),
    partial(train_generator._init, model),
    optimizer.make_optimizer(name="adamw", lr=1e-3, num_steps=1000),
    betas=schedule.BETAS[stage.betas](),
    pad_token=model.vocab_size - 1,
    drop_prompt=0.1,
    ema_decay=0.999,
  )
  n, side, length = batch, stage.image_size, model.text_context
  rows = {
    "image": _images(n, side, side, 3),
    "tokens": _tokens(n, length),
    "mask": _array(n, length, dtype=bool),
  }
  if stage.low_res:
    rows["low_res"] = _images(n, stage.low_res, stage.low_res, 3)
  return _step(objective, rows)


def contrast_step(batch: int, model: clip.CLIP) -> Hot:
  """Trains a CLIP for a step."""
  objective = contrastive.contrastive(
    model,
    optimizer.make_optimizer(name="adamw", lr=1e-3, num_steps=1000),
    ema_decay=0.999,
    positives="same_text",
    preprocess=clip.preprocess,
  )
  side = model.image_size
  rows = {
    "images": _images(batch, side, side, 3),
    "tokens": _tokens(batch, model.context_length),
  }
  return _step(objective, rows)


# --- sizes --------------------------------------------------------------------

_MIX = dict(augment="deit", mixed=True, recipe="deit", drop_path=0.1)
FULL = {
  "draw GLIDE, paper's setting": partial(
    draw_glide, 64, RELEASED, preset="paper"
  ),
  "draw GLIDE, fast": partial(draw_glide, 64, RELEASED, preset="fast"),
  "GLIDE's base, a step": partial(glide_step, 64, RELEASED["base"]),
  "GLIDE's upsampler, a step": partial(glide_step, 64, RELEASED["upsampler"]),
  "Stable Diffusion 1, a step": partial(stable_diffusion_step, 4, side=64),
  "SDXL, a step": partial(
    stable_diffusion_step, 4, side=128, **sd_unet.SDXL.keywords
  ),
  "Stable Diffusion, decode": partial(decode_latents, 4, side=64),
  "GLIDE, CLIP's guidance": partial(guide_by_clip, 64),
  "T5, read": partial(read_texts, 256, length=16),
  "T5, write": partial(write_sentences, 64, length=16),
  "CLIP RN50, images": lambda: encode_images(
    256, clip.MODELS["clip_rn50"](), side=256
  ),
  "CLIP ViT-B/16, images": lambda: encode_images(
    256, clip.MODELS["clip_vit_b16"](dtype=jnp.bfloat16), side=256
  ),
  "CLIP, texts": lambda: encode_texts(
    256, clip.MODELS["clip_vit_b16"](dtype=jnp.bfloat16)
  ),
  "ResNet-50, train": partial(
    classify_step,
    512,
    "resnet50",
    recipe="agnostic",
    side=224,
    source=256,
    augment="crop_flip",
  ),
  "DeiT-S, train": partial(
    classify_step, 1024, "deit_s", side=224, source=256, **_MIX
  ),
  "MoCo v2, train": partial(moco_step, 256, side=224, source=256),
  "R50-C4, train": partial(detect_step, 16, shape=(800, 1344), remat=True),
  "R50-C4, detect": partial(detect, 8, shape=(800, 1344)),
  "tune a head": partial(tune_head, 8000, width=1024, classes=10, epochs=30),
}

_GLIDE = dict(
  text_context=8,
  text_width=128,
  text_layers=1,
  text_heads=2,
  model_channels=64,
  channel_mult=(1, 2),
  num_res_blocks=1,
  attention_downsamples=(2,),
)
TINY_STAGES = {
  "base": Stage(_GLIDE, 8, None, "squared_cosine", 3.0),
  "upsampler": Stage(_GLIDE, 16, 8, "linear", None),
}
_CLIP = dict(
  embed_dim=64,
  image_size=32,
  patch_size=16,
  vision_width=128,
  vision_layers=1,
  vision_heads=2,
  context_length=9,
  vocab_size=64,
  text_width=128,
  text_layers=1,
  text_heads=2,
)
_T5 = dict(
  vocab_size=128,
  d_model=64,
  d_ff=64,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=1,
)
_RESNET = dict(stage_sizes=(1, 1), width=8)
_DETECTOR = dict(stage_sizes=(1, 1, 1, 1), width=8)
TINY = {
  "draw GLIDE, paper's setting": partial(
    draw_glide, 2, TINY_STAGES, preset="paper"
  ),
  "draw GLIDE, fast": partial(draw_glide, 2, TINY_STAGES, preset="fast"),
  "Stable Diffusion 1, a step": partial(
    stable_diffusion_step,
    1,
    side=32,  # 1,024 places, enough for the TPU's kernel
    widths=(64, 320),
    layers=1,
    attention=(True, True),
    heads=(1, 2),  # 160 wide, as on Stable Diffusion's lowest levels
    context_dim=64,
  ),
  "SDXL, a step": partial(
    stable_diffusion_step,
    1,
    side=64,  # 1,024 places where there is attention
    widths=(64, 128),
    layers=1,
    attention=(False, True),
    heads=(1, 2),  # 64 wide, as everywhere in SDXL
    depths=(1, 2),
    context_dim=64,
    pooled_dim=32,
  ),
  "Stable Diffusion, decode": partial(
    decode_latents, 1, side=8, widths=(32, 64), layers=1
  ),
  "GLIDE, CLIP's guidance": partial(
    guide_by_clip,
    2,
    image_size=8,
    patch_size=4,
    width=128,
    layers=1,
    heads=2,
    embed_dim=16,
  ),
  "T5, read": partial(read_texts, 2, length=8, **_T5),
  "T5, write": partial(write_sentences, 2, length=5, **_T5),
  "CLIP RN50, images": lambda: encode_images(
    2,
    clip.CLIP(
      **_CLIP
      | dict(image_tower="resnet", patch_size=None, vision_layers=(1, 1, 1, 1))
    ),
    side=40,
  ),
  "CLIP ViT-B/16, images": lambda: encode_images(
    2, clip.CLIP(**_CLIP, dtype=jnp.bfloat16), side=40
  ),
  "CLIP, texts": lambda: encode_texts(
    2, clip.CLIP(**_CLIP, dtype=jnp.bfloat16)
  ),
  "ResNet-50, train": partial(
    classify_step,
    8,
    "resnet50",
    recipe="agnostic",
    side=32,
    source=40,
    augment="crop_flip",
    **_RESNET,
  ),
  "DeiT-S, train": partial(
    classify_step,
    4,
    "deit_s",
    side=32,  # with patches of 16 px: five tokens, as odd as 197
    source=40,
    depth=1,
    width=128,
    heads=2,
    **_MIX,
  ),
  "MoCo v2, train": partial(
    moco_step, 16, side=32, source=40, queue_size=64, **_RESNET
  ),
  "R50-C4, train": partial(
    detect_step, 2, shape=(64, 80), remat=True, **_DETECTOR
  ),
  "R50-C4, detect": partial(detect, 2, shape=(64, 80), **_DETECTOR),
  "tune a head": partial(tune_head, 700, width=64, classes=3, epochs=2),
  "embedded base, train": partial(denoise_step, 4, TINY_STAGES["base"]),
  "embedded upsampler, train": partial(
    denoise_step, 4, TINY_STAGES["upsampler"]
  ),
  "embedded CLIP, train": lambda: contrast_step(4, clip.CLIP(**_CLIP)),
}

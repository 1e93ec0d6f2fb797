"""What an accelerator computes by kernels of its own, against the CPU.

Each check is a function and inputs of a type. The CPU computes it in float32;
the error of a device is the norm of the difference, relative to the CPU's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import glide_stages
from synthjax.detection.faster_rcnn import roi_align
from synthjax.detection.nms import batched_nms
from synthjax.encoders.resize import fit_images
from synthjax.models import attention
from synthjax.models.classifiers import make_classifier
from synthjax.models.clip import model as clip
from synthjax.models.glide.model import Text


class Way(NamedTuple):
  """How a device computes, and how far off that may be."""

  dtype: str
  precision: str  # of products of float32
  most: float  # error


WAYS = {
  "float32": Way("float32", "highest", 1e-4),
  "float32, as the device has it": Way("float32", "default", 1e-2),
  "bfloat16": Way("bfloat16", "default", 5e-2),
}


class Check(NamedTuple):
  """A function, to be computed on two devices."""

  run: Callable[..., Any]
  inputs: Callable[[str], tuple]  # of a dtype
  exact: bool = False  # in all ways, as it picks or rounds to whole numbers


def errors(check: Check, ways: Mapping[str, Way] = WAYS) -> dict[str, float]:
  """Returns the errors of the first device by way, against the CPU."""
  run = lambda: jax.jit(check.run)  # traced anew, with the kernels of a device
  cpu, device = jax.devices("cpu")[0], jax.devices()[0]
  flat = lambda tree: np.concatenate(
    [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
  )
  want, found = flat(run()(*jax.device_put(check.inputs("float32"), cpu))), {}
  for name, way in ways.items():
    with jax.default_matmul_precision(way.precision):
      got = run()(*jax.device_put(check.inputs(way.dtype), device))
    off = np.linalg.norm(flat(got) - want)
    found[name] = float(off / np.linalg.norm(want))
  return found


def checks(*, tiny: bool) -> dict[str, Check]:
  """Returns all checks by name.

  Args:
    tiny: networks of the tests; the released ones otherwise.
  """
  stages = glide_stages.TINY if tiny else glide_stages.RELEASED
  found = {
    f"attention {length} x {keys} x {width}": _attention(length, keys, width)
    for length, keys, width in (
      (197, 197, 64),  # a ViT
      (1024, 1152, 64),  # GLIDE
      (256, 77, 40),  # Stable Diffusion
      (64, 64, 160),
    )
  }
  found |= {
    "causal attention": _attention(77, 77, 64, causal=True),
    "suppression": _suppression(),
    "RoIAlign and its gradient": _roi_align(),
    "resize": _resize(),
    "ResNet": _resnet(tiny),
    "CLIP": _clip(tiny),
  }
  return found | {
    f"GLIDE's {name}": _glide(name, stage, tiny)
    for name, stage in stages.items()
  }


def _attention(length: int, keys: int, width: int, causal=False) -> Check:
  """Attention with its gradients."""

  def plain(q, k, v):
    if not causal:
      return attention.attend(q, k, v)
    logits = jnp.einsum("nlhd,nmhd->nhlm", q, k) * width**-0.5
    seen = jnp.tril(jnp.ones(logits.shape[2:], bool))
    weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
    return jnp.einsum("nhlm,nmhd->nlhd", weights, v)

  def square(q, k, v):
    out = attention.fused(q, k, v, causal=causal)
    out = plain(q, k, v) if out is None else out
    return jnp.square(out.astype(jnp.float32)).sum()

  def inputs(dtype):
    rng = np.random.default_rng(0)
    draw = lambda n: rng.normal(size=(2, n, 4, width)).astype(jnp.dtype(dtype))
    return draw(length), draw(keys), draw(keys)

  return Check(jax.grad(square, (0, 1, 2)), inputs)


def _suppression() -> Check:
  """Which boxes are kept; the scores and overlaps are no close calls."""

  def run(boxes, scores, groups):
    valid = jnp.ones(len(scores), bool)
    return batched_nms(boxes, scores, groups, valid, threshold=0.5, max_out=100)

  def inputs(dtype):
    del dtype  # boxes are float32 always
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 400, (2000, 2))
    side = rng.integers(16, 100, (2000, 2))
    boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
    scores = rng.permutation(2000).astype(np.float32)
    return boxes, scores, rng.integers(0, 3, 2000)

  return Check(run, inputs, exact=True)


def _roi_align() -> Check:
  def run(features, rois):
    pool = lambda x: jnp.square(roi_align(x, rois).astype(jnp.float32)).mean()
    return roi_align(features, rois), jax.grad(pool)(features)

  def inputs(dtype):
    rng = np.random.default_rng(0)
    ends = rng.uniform(0, 1, (2, 64, 2)) * [800, 600]
    rois = np.concatenate([ends.min(0), ends.max(0)], -1).astype(np.float32)
    return rng.normal(size=(38, 50, 64)).astype(jnp.dtype(dtype)), rois

  return Check(run, inputs)


def _resize() -> Check:
  def inputs(dtype):
    del dtype
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (4, 256, 320, 3), np.uint8),)

  return Check(lambda images: fit_images(images, 224), inputs, exact=True)


def _network(model: Any, *arrays: np.ndarray, **more: Any) -> Check:
  """A network with random weights, whose activations have the type."""
  variables = jax.eval_shape(model.init, jax.random.key(0), *arrays)
  rng = np.random.default_rng(0)

  def fill(path, x):
    name = path[-1].key
    if name in ("scale", "var"):
      return np.ones(x.shape, np.float32)
    size = max(int(np.prod(x.shape[:-1])), 1)
    return rng.normal(0, size**-0.5, x.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(fill, dict(variables))

  def run(kind, variables, *arrays):
    return model.copy(dtype=kind.dtype).apply(variables, *arrays, **more)

  # An array of no numbers says what type activations have.
  return Check(
    run, lambda dtype: (np.zeros(0, jnp.dtype(dtype)), variables, *arrays)
  )


def _images(n: int, side: int) -> np.ndarray:
  return np.random.default_rng(1).normal(size=(n, side, side, 3)).astype("f")


def _resnet(tiny: bool) -> Check:
  sizes = dict(stage_sizes=(1, 1), width=8) if tiny else {}
  model = make_classifier("resnet50", num_classes=10, **sizes)
  return _network(model, _images(2, 64 if tiny else 224))


def _clip(tiny: bool) -> Check:
  fields = dict(vision_width=128, vision_layers=1, vision_heads=2)
  model = clip.MODELS["clip_vit_b16"](**(fields if tiny else {}))
  tower = clip.make_image_tower(model)
  return _network(tower, _images(2, model.image_size))


def _glide(name: str, stage: glide_stages.Stage, tiny: bool) -> Check:
  model, variables = glide_stages.make_model(stage, "float32")
  side = stage.image_size // (1 if tiny or name == "base" else 4)
  low = side // 4 if stage.low_res else None

  def run(variables, x, t, text, low_res):
    wanted = model.copy(dtype=text.sequence.dtype)
    return wanted.apply(variables, x, t, text, low_res, method="predict")

  def inputs(dtype):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    text = Text(
      draw(1, 4 * model.model_channels),
      draw(1, model.text_context, model.text_width).astype(jnp.dtype(dtype)),
    )
    x, low_res = draw(1, side, side, 3), low and draw(1, low, low, 3)
    return variables, x, np.array([500]), text, low_res

  return Check(run, inputs)

"""The code of accelerators, checked on a CPU.

Every hot function is lowered for NVIDIA GPUs and for TPUs, small but with the
widths, odd lengths and types on which kernels depend.
"""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hot_functions
from benchmarks.hot_functions import PLATFORMS, TINY
from synthjax.models import attention

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
# Kernels of attention by platform and function; all others have none.
CUDA = {
  # Four of either network: one on the way down, one in the middle, two up.
  "draw GLIDE, paper's setting": {FORWARD: 8},
  "draw GLIDE, fast": {FORWARD: 8},
  "Stable Diffusion 1, a step": {FORWARD: 14},
  # Two of each of eight blocks: two down, two in the middle, four up.
  "SDXL, a step": {FORWARD: 16},
  "GLIDE, CLIP's guidance": {FORWARD: 1, BACKWARD: 1},
  "T5, read": {"__cudnn$fmhaScaleBiasSoftmax": 1},
  "CLIP ViT-B/16, images": {FORWARD: 1},
  "CLIP, texts": {FORWARD: 1},
  "DeiT-S, train": {FORWARD: 1, BACKWARD: 1},
  "embedded base, train": {FORWARD: 5, BACKWARD: 5},
  "embedded upsampler, train": {FORWARD: 5, BACKWARD: 5},
}
# Long enough for a TPU's are the images of Stable Diffusion at the upper level;
# the kernel is one function, which every block calls.
FUSED = {
  "cuda": CUDA,
  "tpu": dict.fromkeys(
    ("Stable Diffusion 1, a step", "SDXL, a step"), {"tpu_custom_call": 1}
  ),
}
# The products that stay float32 where activations are bfloat16, by the last
# name of where they stand: of times and pooled texts, of last layers, of
# losses, and what crops and resizes pixels.
_GLIDE = {"time_embed", "emb_layers", "out"}
_ENLARGED, _CROPPED = {""}, {"vmap()"}
FLOAT32 = {
  "draw GLIDE, paper's setting": _GLIDE | _ENLARGED,
  "draw GLIDE, fast": _GLIDE | _ENLARGED,
  "Stable Diffusion 1, a step": {
    "time_embedding_linear",
    "time_emb_proj",
    "conv_out",
  },
  "SDXL, a step": {
    "add_embedding_linear",
    "time_embedding_linear",
    "time_emb_proj",
    "conv_out",
  },
  # The class token alone is projected.
  "CLIP ViT-B/16, images": {"nhwc,vw->nhvc", "nhwc,uh->nuwc", "visual"},
  "ResNet-50, train": {"fc"} | _CROPPED,
  "DeiT-S, train": {"head", "k,kcv->cv"} | _CROPPED,
  "MoCo v2, train": {
    "fc",
    "jvp(nd,nd->n)",
    "jvp(nd,md->nm)",
    "transpose(jvp(nd,nd->n))",
    "transpose(jvp(nd,md->nm))",
    "vmap(yh,hwc->ywc)",  # the blur
    "vmap(xw,ywc->yxc)",
  }
  | _CROPPED,
  "R50-C4, train": {"rpn_objectness", "rpn_deltas", "cls_score", "bbox_pred"},
  "R50-C4, detect": {"rpn_objectness", "rpn_deltas", "cls_score", "bbox_pred"},
  "embedded base, train": _GLIDE | {"transformer_proj"},
  "embedded upsampler, train": _GLIDE | _ENLARGED | {"transformer_proj"},
}
FAST = {("DeiT-S, train", "cuda"), ("tune a head", "tpu")}


def make(name, platform):
  with hot_functions.traced_for(platform):
    return TINY[name]()


@pytest.mark.parametrize(
  ("name", "platform"),
  [
    pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
    for case in ((n, p) for n in TINY for p in PLATFORMS)
  ],
)
def test_it_lowers_with_the_kernels_that_are_expected(name, platform):
  hot = make(name, platform)
  text = hot_functions.lower(hot, platform).as_text()
  calls = Counter(re.findall(r"custom_call @([\w$.]+)", text))
  fused = {k: n for k, n in calls.items() if re.search("fmha|tpu", k)}
  assert fused == FUSED[platform].get(name, {})
  assert not [k for k in calls if "callback" in k]  # the device never waits
  state = () if hot.donated is None else jax.tree.leaves(hot.args[hot.donated])
  donated = re.findall(r"jax\.buffer_donor|tf\.aliasing_output", text)
  assert len(donated) == len(state)


def float32_products(jaxpr):
  """Yields where products and convolutions of float32 stand, by modules."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
      if eqn.invars[0].aval.dtype == jnp.float32:
        yield str(eqn.source_info.name_stack)
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from float32_products(inner)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      n, marks=() if n == "CLIP ViT-B/16, images" else pytest.mark.slow
    )
    for n in FLOAT32
  ],
)
def test_products_are_float32_only_where_named(name):
  hot = make(name, "cuda")
  with hot_functions.traced_for("cuda"):
    jaxpr = jax.make_jaxpr(hot.function)(*hot.args).jaxpr
  stacks = {stack.split("/")[-1] for stack in float32_products(jaxpr)}
  assert {re.sub(r"(_\d+)+$", "", stack) for stack in stacks} == FLOAT32[name]


def test_odd_lengths_do_not_train_without_padding(monkeypatch):
  """What broke DeiT on every NVIDIA GPU; fails when JAX has mended it."""

  monkeypatch.setattr(attention, "_by_cudnn", attention._cudnn)
  with pytest.raises(NotImplementedError, match="Unsupported sequence length"):
    hot_functions.lower(make("DeiT-S, train", "cuda"), "cuda")

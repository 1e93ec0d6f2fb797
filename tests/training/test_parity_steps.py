"""One training step equals PyTorch's, from the loss to the moved statistics.

The references are written in plain PyTorch after the papers and the authors'
recipes: a step of DeiT (mixup, soft targets, AdamW that spares biases, norms
and embeddings) and one of MoCo v2 (momentum encoder, shuffled keys, queue, SGD,
BatchNorm by groups). Augmentation is off.
"""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import (
  numpy_of,
  random_images,
  randomise,
  relative_error,
  torch_resnet,
)

from synthjax.models.classifiers import make_classifier
from synthjax.models.resnet import weights as resnet_weights
from synthjax.models.vit import weights as vit_weights
from synthjax.training import mixup, recipes
from synthjax.training.moco import MocoState, moco
from synthjax.training.optimizer import make_optimizer
from synthjax.training.supervised import SupervisedState, supervised


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def as_torch(images):
  import torch

  return torch.from_numpy(images).permute(0, 3, 1, 2)


def check_all(got, want, tolerance):
  """Compares arrays by name: the error of each beside its own largest entry."""
  assert got.keys() == want.keys()
  errors = {name: relative_error(got[name], want[name]) for name in want}
  worst = max(errors, key=errors.get)
  print(f"{len(errors)} arrays, largest error {errors[worst]:.1e} ({worst})")
  assert errors[worst] < tolerance, worst


# --- DeiT -------------------------------------------------------------------


def torch_vit(*, width, depth, heads, patch, size, classes):
  """Returns a ViT whose parameters are named as timm's."""
  import torch
  from torch import nn

  norm = partial(nn.LayerNorm, width, eps=1e-6)

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
      n, length, _ = x.shape
      qkv = self.qkv(x).reshape(n, length, 3, heads, width // heads)
      q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, l, d / heads]
      weights = (q @ k.mT * (width // heads) ** -0.5).softmax(-1)
      return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))

  class MLP(nn.Module):
    def __init__(self):
      super().__init__()
      self.fc1 = nn.Linear(width, 4 * width)
      self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
      return self.fc2(nn.functional.gelu(self.fc1(x)))

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1, self.attn = norm(), Attention()
      self.norm2, self.mlp = norm(), MLP()

    def forward(self, x):
      x = x + self.attn(self.norm1(x))
      return x + self.mlp(self.norm2(x))

  class ViT(nn.Module):
    def __init__(self):
      super().__init__()
      length = 1 + (size // patch) ** 2
      self.cls_token = nn.Parameter(torch.randn(1, 1, width))
      self.pos_embed = nn.Parameter(torch.randn(1, length, width))
      self.patch_embed = nn.Module()
      self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
      self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
      self.norm, self.head = norm(), nn.Linear(width, classes)

    def forward(self, images):
      x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
      x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
      return self.head(self.norm(self.blocks(x + self.pos_embed))[:, 0])

  return ViT()


def test_a_step_of_deit_equals_pytorch(torch):
  share, smoothing, lr = 0.7, 0.1, 1e-3
  model = torch_vit(width=64, depth=2, heads=1, patch=4, size=16, classes=5)
  model = randomise(model)
  images, labels = random_images(6, 16), np.array([0, 4, 2, 2, 1, 3])

  # The reference: smoothed targets, of which mixup mixes each with the one at
  # the same place from the end.
  off = smoothing / 5
  target = torch.full((6, 5), off)
  target[range(6), labels] = 1 - smoothing + off
  pixels = as_torch(images)
  pixels = share * pixels + (1 - share) * pixels.flip(0)
  target = share * target + (1 - share) * target.flip(0)
  spared = lambda name, p: p.ndim == 1 or name in ("cls_token", "pos_embed")
  groups = [
    {
      "params": [p for n, p in model.named_parameters() if spared(n, p) == no],
      "weight_decay": 0.0 if no else 0.05,
    }
    for no in (True, False)
  ]
  before = numpy_of(model)
  optimizer = torch.optim.AdamW(groups, lr=lr, eps=1e-8)
  want_loss = -(target * model(pixels).log_softmax(-1)).sum(-1).mean()
  want_loss.backward()
  want_grads = {n: p.grad.numpy() for n, p in model.named_parameters()}
  optimizer.step()
  want_params = numpy_of(model)

  # Ours, with the optimizer of the recipe but a rate that is not warming up.
  fields = recipes.RECIPES["deit"]["optimizer"]
  fields = {k: fields[k] for k in ("name", "weight_decay", "decay")}
  assert fields["weight_decay"] == 0.05
  tx = make_optimizer(num_steps=10, epochs=1, lr=lr, rate="constant", **fields)
  variables, description = vit_weights.from_released(before)
  net = make_classifier(num_classes=5, **description["model"])
  mix = lambda images, rng: (mixup.mixup(images, share), jnp.full(6, share))
  objective = supervised(
    net,
    tx,
    label_smoothing=smoothing,
    mix=mix,
  )
  params = variables["params"]
  state = SupervisedState(jnp.array(0), variables, None, tx.init(params))
  with jax.default_matmul_precision("highest"):
    state, metrics = jax.jit(objective.step)(
      state, {"image": images, "label": labels}, jax.random.key(0)
    )
  np.testing.assert_allclose(metrics["loss"], want_loss.detach(), rtol=1e-6)

  # Adam's first moment after one step is (1 - 0.9) g.
  first = next(s for s in state.opt_state if hasattr(s, "mu")).mu
  grads = jax.tree.map(lambda m: np.asarray(m) / 0.1, {"params": first})
  grads = vit_weights.to_released(grads, description)
  check_all(grads, want_grads, 1e-5)
  # Its first update is lr g / (|g| + 1e-8): where a gradient is nothing but
  # rounding (of the keys' biases, which softmax ignores) so is its sign.
  got = vit_weights.to_released(state.variables, description)
  for name, grad in want_grads.items():
    sure = np.abs(grad) > 1e-5
    assert sure.any() or ".qkv." in name
    moved, wanted = (p[name] - before[name] for p in (got, want_params))
    np.testing.assert_allclose(
      moved[sure], wanted[sure], rtol=2e-3, atol=3e-7, err_msg=name
    )
  # The decay moves what it acts on by lr 0.05 w, which would not pass above.
  assert np.abs(lr * 0.05 * before["head.weight"]).max() > 1e-5


# --- MoCo -------------------------------------------------------------------

GROUPS = 2  # of 4 images, where MoCo has 8 of 32
SIZES = dict(block="basic", stage_sizes=(1, 1), width=8, head="mlp")


def encode_in_groups(model, pixels):
  """Returns unit vectors, and the mean of the groups' statistics.

  Each group is seen by a device of its own, which starts from the same
  statistics.
  """
  import torch

  before = dict(model.named_buffers())
  features, after = [], []
  for group in pixels.chunk(GROUPS):
    own = {name: buffer.clone() for name, buffer in before.items()}
    out = torch.func.functional_call(model, own, (group,))  # moves its buffers
    features.append(torch.nn.functional.normalize(out, dim=1))
    after.append(own)
  stats = {
    name: torch.stack([a[name] for a in after]).float().mean(0).numpy()
    for name in before
    if "running" in name
  }
  return torch.cat(features), stats


def test_a_step_of_moco_equals_pytorch(torch):
  n, dim, queue_size = 8, 16, 24
  m, temperature, lr = 0.9, 0.2, 0.03
  images = random_images(2 * n, 32)
  query_images, key_images = images[:n], images[n:]
  rng = jax.random.key(3)
  # As the step draws it.
  order = np.asarray(jax.random.permutation(jax.random.split(rng)[1], n))
  assert (order != np.arange(n)).any()
  draws = np.random.default_rng(5)
  queue = draws.normal(size=(queue_size, dim)).astype(np.float32)
  queue /= np.linalg.norm(queue, axis=1, keepdims=True)

  # With seed 25 no ReLU's input is nearer to zero than 100 times its rounding
  # error (1.2 times with seed 0), so each is on or off in both.
  f_q = randomise(torch_resnet(classes=dim, **SIZES), seed=25).train()
  f_k = randomise(torch_resnet(classes=dim, **SIZES), seed=1).train()
  before = {"q": numpy_of(f_q), "k": numpy_of(f_k)}

  # The reference, in the authors' order; a queue of 24 with pointer 16.
  pointer = 16
  optimizer = torch.optim.SGD(
    f_q.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4
  )
  q, want_query_stats = encode_in_groups(f_q, as_torch(query_images))
  with torch.no_grad():
    for of_k, of_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
      of_k.copy_(m * of_k + (1 - m) * of_q)
    k, want_key_stats = encode_in_groups(f_k, as_torch(key_images[order]))
    k = k[np.argsort(order)]
  positive = (q * k).sum(1, keepdim=True)
  logits = torch.cat([positive, q @ torch.from_numpy(queue.T)], 1) / temperature
  want_loss = torch.nn.functional.cross_entropy(
    logits, torch.zeros(n, dtype=torch.long)
  )
  want_loss.backward()
  want_grads = {n: p.grad.numpy().copy() for n, p in f_q.named_parameters()}
  optimizer.step()
  want_queue = queue.copy()
  want_queue[pointer : pointer + n] = k.numpy()

  (query, description), (key, _) = (
    resnet_weights.from_released(before[name]) for name in "qk"
  )
  fields = recipes.RECIPES["moco_v2"]["optimizer"]
  assert fields["lr"] == lr
  tx = make_optimizer(num_steps=2000, epochs=200, **fields)
  objective = moco(
    make_classifier(num_classes=dim, **description["model"]),
    tx,
    queue_size=queue_size,
    dim=dim,
    momentum=m,
    temperature=temperature,
    num_groups=GROUPS,
  )
  opt_state = tx.init(query["params"])
  state = MocoState(
    step=jnp.array(0),
    query=copy.deepcopy(query),
    key=key,
    queue=jnp.asarray(queue),
    pointer=jnp.array(pointer),
    opt_state=opt_state,
  )
  with jax.default_matmul_precision("highest"):
    state, metrics = jax.jit(objective.step)(
      state, {"query": query_images, "key": key_images}, rng
    )
  np.testing.assert_allclose(metrics["loss"], want_loss.detach(), rtol=1e-5)
  want_top1 = (logits.argmax(1) == 0).float().mean()
  np.testing.assert_allclose(metrics["top1"], want_top1, rtol=1e-6)
  np.testing.assert_allclose(state.queue, want_queue, atol=2e-6)
  assert state.pointer == 0  # it starts anew at 24

  names = lambda variables: resnet_weights.to_released(
    jax.tree.map(np.asarray, variables), description
  )
  params_of = lambda model: {
    n: p.detach().numpy() for n, p in model.named_parameters()
  }
  key_params, query_params = (
    names({"params": v["params"]}) for v in (state.key, state.query)
  )
  check_all(key_params, params_of(f_k), 1e-6)
  # What the step added: -lr (g + 1e-4 w), the first of a momentum.
  moved = {n: w - before["q"][n] for n, w in query_params.items()}
  wanted = {n: w - before["q"][n] for n, w in params_of(f_q).items()}
  check_all(moved, wanted, 1e-4)
  grads = {n: -d / lr - 1e-4 * before["q"][n] for n, d in moved.items()}
  check_all(grads, want_grads, 1e-4)

  for variables, want, start in (
    (state.query, want_query_stats, before["q"]),
    (state.key, want_key_stats, before["k"]),
  ):
    stats = names({"batch_stats": variables["batch_stats"]})
    check_all(stats, biased(want, start), 1e-5)


def biased(stats, before):
  """Returns PyTorch's statistics with Flax's variance.

  PyTorch moves its running variance towards the unbiased one of a group, that
  of Flax times v / (v - 1) for v values of a channel. Here a group has 4 images
  of 32 px; the stem and its pooling halve the side to 16 and 8, stage 2 to 4.
  """

  def values(name):
    side = 16 if name.startswith("bn1") else 8 if "layer1" in name else 4
    return 4 * side**2

  return {
    name: s
    if name.endswith("mean")
    else 0.9 * before[name]
    + (s - 0.9 * before[name]) * (values(name) - 1) / values(name)
    for name, s in stats.items()
  }

"""The noised CLIP against a plain reading of its formulas, and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_weights
import pytest
import released_glide

from synthjax.models.glide import noised_clip
from synthjax.models.glide import noised_clip_weights as convert
from synthjax.runtime.errors import UserError

SIZES = {
  "image": dict(
    image_size=16,
    patch_size=4,
    width=24,
    layers=2,
    heads=3,
    embed_dim=10,
    timesteps=50,
  ),
  "text": dict(
    vocab_size=40, context=9, width=20, layers=2, heads=2, embed_dim=10
  ),
}


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def random_weights(tower, seed=0):
  """Returns weights under their released names, none of them small."""
  variables = convert._shapes(tower, SIZES[tower])
  rng = np.random.default_rng(seed)
  return {
    name: 0.3 * rng.standard_normal(value.shape).astype(np.float32)
    for name, value in convert.to_released(
      jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables), {}
    ).items()
  }


def plain_blocks(torch, w, x, heads, bias):
  """Reads the blocks' formulas off the weights, in PyTorch."""
  f = torch.nn.functional
  n, length, d = x.shape

  def norm(x, name):
    return f.layer_norm(x, (d,), w[f"{name}.g"], w[f"{name}.b"], eps=1e-5)

  def linear(x, name):
    return f.linear(x, w[f"{name}.w"], w.get(f"{name}.b"))

  def split(x):  # [n, l, d] -> [n, heads, l, d / heads]
    return x.reshape(n, length, heads, d // heads).transpose(1, 2)

  for i in range(2):
    name = f"blocks.block_{i}.f_attn"
    y = norm(x, f"{name}.ln")
    q, k, v = (
      split(linear(y, f"{name}.{part}")) for part in "f_q f_k f_v".split()
    )
    logits = q @ k.transpose(2, 3) / (d // heads) ** 0.5 + bias
    y = (logits.softmax(-1) @ v).transpose(1, 2).reshape(n, length, d)
    x = x + linear(y, f"{name}.f_c")
    name = f"blocks.block_{i}.f_mlp"
    y = f.gelu(linear(norm(x, f"{name}.ln"), f"{name}.f_1"))
    x = x + linear(y, f"{name}.f_2")
  return norm(x, "blocks.output.ln") @ w["blocks.output.f.w"].T


def plain_image(torch, w, images, t):
  """Encodes [n, 3, h, w] in -1..1 as 5.7 of the notes on the release says."""
  mean = torch.tensor([122.77093945, 116.74601272, 104.09373519])
  std = torch.tensor([68.50053285, 66.63215831, 70.32316309])
  x = (images + 1) * 127.5
  x = (x - mean[:, None, None]) / std[:, None, None]
  x = torch.nn.functional.conv2d(x, w["blocks.input.patch_proj"], stride=4)
  x = x.flatten(2).transpose(1, 2)
  x = torch.cat([w["blocks.input.w_t"][t][:, None], x], 1)
  x = x + w["blocks.input.w_pos"]
  d = x.shape[-1]
  x = torch.nn.functional.layer_norm(
    x, (d,), w["blocks.input.ln.g"], w["blocks.input.ln.b"], eps=1e-5
  )
  z = plain_blocks(torch, w, x, 3, 0.0)[:, 0]
  return z / (z.norm(dim=-1, keepdim=True) + 1e-12)


def plain_text(torch, w, tokens, ends):
  length = tokens.shape[1]
  x = w["blocks.input.w_voc"][tokens] + w["blocks.input.w_pos"]
  later = torch.triu(torch.full((length, length), -1e10), diagonal=1)
  z = plain_blocks(torch, w, x, 2, later)[torch.arange(len(tokens)), ends]
  return z / (z.norm(dim=-1, keepdim=True) + 1e-12)


def as_torch(torch, weights):
  return {name: torch.from_numpy(value) for name, value in weights.items()}


def error(got, want):
  return np.abs(got - want).max() / np.abs(want).max()


def test_images_and_their_gradient_equal_a_plain_reading():
  torch = pytest.importorskip("torch")
  weights = random_weights("image")
  rng = np.random.default_rng(1)
  x = rng.uniform(-1.2, 1.2, (3, 16, 16, 3)).astype(np.float32)
  t = np.array([0, 7, 49])
  toward = rng.standard_normal((3, 10)).astype(np.float32)

  given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
  plain = as_torch(torch, weights)
  want = plain_image(torch, plain, given, torch.from_numpy(t))
  (want * torch.from_numpy(toward)).sum().backward()

  variables, description = convert.from_released(weights, heads=3)
  assert description == {
    "kind": "noised_clip",
    "tower": "image",
    "model": SIZES["image"],
  }
  model = noised_clip.ImageEncoder(**description["model"])

  def encode(x):
    z = model.apply(variables, x, jnp.asarray(t))
    return jnp.sum(z * toward), z

  gradient, z = jax.jit(jax.grad(encode, has_aux=True))(jnp.asarray(x))
  assert np.std(want.detach().numpy(), axis=0).min() > 1e-3  # images differ
  assert error(z, want.detach().numpy()) < 1e-4
  assert error(gradient, given.grad.numpy().transpose(0, 2, 3, 1)) < 1e-4


def test_texts_equal_a_plain_reading_whatever_follows_their_end():
  torch = pytest.importorskip("torch")
  weights = random_weights("text")
  ends = np.array([1, 4, 8])
  tokens = np.zeros((3, 9), np.int64)
  for row, end in enumerate(ends):
    tokens[row, :end] = [38, *range(1, end)]
    tokens[row, end] = 39
  want = plain_text(
    torch, as_torch(torch, weights), torch.from_numpy(tokens), ends
  ).numpy()

  variables, description = convert.from_released(weights, heads=2)
  assert description["tower"] == "text"
  assert description["model"] == SIZES["text"]
  encode = jax.jit(noised_clip.TextEncoder(**description["model"]).apply)
  assert error(encode(variables, jnp.asarray(tokens)), want) < 1e-4
  tokens[0, 3:] = 5
  assert error(encode(variables, jnp.asarray(tokens)), want) < 1e-4


@pytest.mark.parametrize(
  ("tower", "shapes", "tensors", "parameters"),
  [
    ("image", released_glide.noised_clip_image(), 188, 86_443_776),
    ("text", released_glide.noised_clip_text(), 185, 71_679_488),
  ],
  ids=["image", "text"],
)
def test_every_released_weight_is_taken(tower, shapes, tensors, parameters):
  assert len(shapes) == tensors
  variables, description = convert.from_released(plain_weights.zeros(shapes))
  leaves = jax.tree.leaves(variables)
  assert len(leaves) == tensors and sum(x.size for x in leaves) == parameters
  assert description["tower"] == tower
  # The defaults of the modules are the released sizes.
  model = convert.TOWERS[tower]()
  for field, value in description["model"].items():
    assert getattr(model, field) == value, field
  back = convert.to_released(variables, description)
  assert {name: value.shape for name, value in back.items()} == shapes


@pytest.mark.parametrize("tower", sorted(SIZES))
def test_weights_return_as_they_were(tower):
  weights = random_weights(tower)
  heads = SIZES[tower]["heads"]
  back = convert.to_released(*convert.from_released(weights, heads=heads))
  assert back.keys() == weights.keys()
  for name, value in weights.items():
    np.testing.assert_array_equal(back[name], value)


def test_bad_weights_are_refused_with_all_problems():
  with pytest.raises(
    UserError, match=r"no blocks\.input\.w_t, .*such as fc\.w"
  ):
    convert.from_released({"fc.w": np.zeros(2)})
  weights = random_weights("text")
  with pytest.raises(UserError, match="does not split over heads=0"):
    convert.from_released(weights)
  weights["blocks.block_1.f_attn.f_k.b"] = np.zeros(20)
  del weights["blocks.output.ln.g"]
  with pytest.raises(UserError) as error:
    convert.from_released(weights, heads=2)
  for words in (
    "block_1/f_attn/f_k/bias",
    "output/ln/scale: weights have None",
  ):
    assert words in str(error.value)
  with pytest.raises(UserError, match="Allowed: glide"):
    convert.to_released({}, {}, layout="torch")


@pytest.mark.parametrize(
  ("tower", "shapes", "words"),
  [
    ("image", ((1, 8, 8, 3), (1,)), "image_size=16"),
    ("text", ((1, 5),), "reads 9 tokens, found 5"),
  ],
)
def test_inputs_of_another_size_are_refused(tower, shapes, words):
  inputs = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]
  model = convert.TOWERS[tower](**SIZES[tower])
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), *inputs)

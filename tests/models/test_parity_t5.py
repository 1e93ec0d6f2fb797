"""Parity of T5 with transformers' T5ForConditionalGeneration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.models.t5 import weights as converter
from synthjax.models.t5.model import T5, relative_buckets
from synthjax.prompts import sampling, t5_writer

# Small, with sizes that differ wherever they may.
SMALL = {
  "vocab_size": 96,
  "d_model": 48,
  "d_kv": 8,
  "d_ff": 80,
  "num_layers": 3,
  "num_decoder_layers": 2,
  "num_heads": 4,
}
BASE = {
  "vocab_size": 32128,
  "d_model": 768,
  "d_kv": 64,
  "d_ff": 3072,
  "num_layers": 12,
  "num_decoder_layers": 12,
  "num_heads": 12,
}


def reference(sizes, seed=0):
  """Builds the reference with random weights whose greedy texts vary.

  The output layer is the embedding, so with small layers every token would be
  followed by itself.
  """
  torch = pytest.importorskip("torch")
  from transformers import T5Config, T5ForConditionalGeneration

  torch.manual_seed(seed)
  model = T5ForConditionalGeneration(
    T5Config(
      **sizes,
      feed_forward_proj="relu",
      tie_word_embeddings=True,
      decoder_start_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    )
  ).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if name == "shared.weight":
        weight *= 0.1
      elif name.endswith(("o.weight", "wo.weight")):
        weight *= 4
      elif "norm" in name:
        weight *= 1 + 0.3 * torch.randn_like(weight)
      elif "relative_attention_bias" in name:
        weight.normal_()
  return model


def converted(model):
  weights = {k: v.numpy() for k, v in model.state_dict().items()}
  variables, description = converter.from_released(weights)
  return variables, T5(**description["model"])


def inputs(vocab_size, lengths, seed=0):
  """Returns tokens that end in eos, and the mask of those lengths."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(3, vocab_size, (len(lengths), max(lengths)))
  mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
  tokens[np.arange(len(lengths)), np.array(lengths) - 1] = 1
  return np.where(mask, tokens, 0), mask


def compare(sizes, lengths, num_tokens):
  """Asserts equal logits and equal greedy tokens."""
  torch = pytest.importorskip("torch")
  theirs = reference(sizes)
  variables, ours = converted(theirs)
  tokens, mask = inputs(sizes["vocab_size"], lengths)
  text = {
    "input_ids": torch.tensor(tokens),
    "attention_mask": torch.tensor(mask, dtype=torch.long),
  }
  with torch.no_grad():
    written = theirs.generate(
      **text, do_sample=False, num_beams=1, max_length=num_tokens
    ).numpy()
    want = theirs(**text, decoder_input_ids=torch.tensor(written)).logits

  @jax.jit
  def run(variables, tokens, mask, written):
    encoded = ours.apply(variables, tokens, mask, method="encode")
    logits = ours.apply(variables, written, encoded, mask, method="decode")
    greedy = t5_writer.write_tokens(
      ours,
      variables,
      encoded,
      mask,
      jax.random.split(jax.random.key(0), len(tokens)),
      max_length=num_tokens,
      temperature=0.0,
    )
    return logits, greedy

  with jax.default_matmul_precision("highest"):
    logits, greedy = run(variables, tokens, mask, jnp.asarray(written))
  width = written.shape[1]  # the reference stops when every text has ended
  np.testing.assert_array_equal(greedy[:, :width], written)
  assert not np.asarray(greedy[:, width:]).any()
  assert len(np.unique(written)) >= 6
  error = np.abs(logits - want.numpy()).max() / np.abs(want.numpy()).max()
  assert error < 1e-4
  print(f"relative error {error:.1e}")


def test_logits_and_greedy_texts_equal_those_of_the_reference():
  compare(SMALL, lengths=(11, 4, 7, 1), num_tokens=16)


@pytest.mark.slow
def test_t5_base_equals_the_reference():
  compare(BASE, lengths=(9, 5), num_tokens=8)


@pytest.mark.parametrize("both", [True, False])
def test_relative_positions_fall_into_the_buckets_of_the_reference(both):
  torch = pytest.importorskip("torch")
  from transformers.models.t5.modeling_t5 import T5Attention

  distance = np.arange(-300, 301)
  for num_buckets, max_distance in ((32, 128), (8, 20)):
    want = T5Attention._relative_position_bucket(
      torch.tensor(distance), both, num_buckets, max_distance
    )
    got = relative_buckets(distance, num_buckets, max_distance, both=both)
    np.testing.assert_array_equal(got, want.numpy())


@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"),
  [(1.0, 5, 1.0), (0.7, 0, 0.6), (1.3, 12, 0.8), (1.0, 0, 1e-6)],
)
def test_unlikely_tokens_are_dropped_as_in_the_reference(
  temperature, top_k, top_p
):
  torch = pytest.importorskip("torch")
  from transformers import generation

  logits = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
  want = torch.tensor(logits) / temperature
  if top_k:
    want = generation.TopKLogitsWarper(top_k)(None, want)
  if top_p < 1:
    want = generation.TopPLogitsWarper(top_p)(None, want)
  got = sampling.keep_likely(logits / temperature, top_k=top_k, top_p=top_p)
  np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)

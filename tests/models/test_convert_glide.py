"""Released GLIDE weights become our variables, and become themselves again."""

import jax
import numpy as np
import plain_weights
import pytest
import released_glide

from synthjax.models.glide import weights as glide_weights
from synthjax.runtime.errors import UserError

STAGES = {
  "base": released_glide.BASE,
  "upsampler": released_glide.UPSAMPLER,
}
# Tensors, parameters and sizes of the released files, read from their shapes.
EXPECTED = {
  "base": (783, 385_030_726, (1, 2, 3, 4), 3, (2, 4, 8)),
  "upsampler": (797, 398_361_286, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32)),
}
ABOUT = {
  "base": dict(image_size=64, low_res=None, betas="squared_cosine"),
  "upsampler": dict(image_size=256, low_res=64, betas="linear"),
}


def recorded(case):
  """Returns a recorded case's weights and what its shapes do not show."""
  meta = case["meta"]
  weights = {
    key.removeprefix("weights/"): value
    for key, value in case.items()
    if key.startswith("weights/")
  }
  return weights, dict(
    head_channels=meta["config"]["num_head_channels"],
    text_heads=meta["config"]["xf_heads"],
    image_size=meta["image_size"],
    low_res=meta.get("low_res_size"),
  )


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_released_weight_is_taken(stage):
  shapes = released_glide.glide(STAGES[stage])
  tensors, parameters, mult, blocks, attention = EXPECTED[stage]
  assert len(shapes) == tensors
  assert sum(map(np.prod, shapes.values())) == parameters
  variables, description = glide_weights.from_released(
    plain_weights.zeros(shapes)
  )
  leaves = jax.tree.leaves(variables)
  assert len(leaves) == tensors and sum(x.size for x in leaves) == parameters
  assert description == {
    "kind": "glide",
    "stage": stage,
    **ABOUT[stage],
    "model": dict(
      vocab_size=50_257,
      text_context=128,
      text_width=512,
      text_layers=16,
      text_heads=8,
      model_channels=192,
      channel_mult=list(mult),
      num_res_blocks=blocks,
      attention_downsamples=list(attention),
      head_channels=64,
      out_channels=6,
    ),
  }
  back = glide_weights.to_released(variables, description)
  assert {name: value.shape for name, value in back.items()} == shapes


@pytest.mark.golden
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_sizes_are_read_off_recorded_weights_which_return_as_they_were(
  golden, stage
):
  case = golden(f"glide_{stage}_unet")
  weights, rest = recorded(case)
  variables, description = glide_weights.from_released(weights, **rest)
  config = case["meta"]["config"]
  sizes = description["model"]
  assert description["stage"] == stage
  assert sizes["channel_mult"] == config["channel_mult"]
  assert sizes["num_res_blocks"] == config["num_res_blocks"]
  assert sizes["attention_downsamples"] == config["attention_resolutions"]
  assert sizes["text_layers"] == config["xf_layers"]
  back = glide_weights.to_released(variables, description)
  assert back.keys() == weights.keys()
  for name, value in weights.items():
    np.testing.assert_array_equal(back[name], value)
    assert back[name].dtype == value.dtype


@pytest.mark.parametrize(
  ("channels", "words"),
  [
    (7, "7 channels, as base_inpaint.pt.*inpainting is not"),
    (10, "10 channels, as upsample_inpaint.pt"),
    (4, "4 channels, as an unknown variant"),
  ],
)
def test_inpainting_weights_are_refused(channels, words):
  shapes = released_glide.glide(released_glide.BASE | {"channels": channels})
  with pytest.raises(UserError, match=words):
    glide_weights.from_released(plain_weights.zeros(shapes))


def test_weights_that_do_not_fit_are_all_listed():
  weights = plain_weights.zeros(released_glide.glide(released_glide.BASE))
  weights["surplus.weight"] = np.zeros(3)
  weights["out.2.bias"] = np.zeros(7)
  del weights["final_ln.bias"]
  with pytest.raises(UserError) as error:
    glide_weights.from_released(weights)
  for problem in (
    "surplus.weight: no rule",
    "unet/out_2/bias: weights have (7,), the model needs (6,)",
    "text/final_ln/bias: weights have None",
  ):
    assert problem in str(error.value)


def test_other_weights_are_refused_with_the_expected_names():
  with pytest.raises(UserError) as error:
    glide_weights.from_released({"conv1.weight": np.zeros((64, 3, 7, 7))})
  for words in ("no token_embedding.weight", "out.2.weight", "conv1.weight"):
    assert words in str(error.value)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(text_heads=5), "512 does not split over text_heads=5"),
    (dict(head_channels=100), "do not split over head_channels=100"),
  ],
)
def test_heads_that_cannot_be_are_refused(options, words):
  weights = plain_weights.zeros(released_glide.glide(released_glide.BASE))
  with pytest.raises(UserError, match=words):
    glide_weights.from_released(weights, **options)


def test_an_unknown_layout_is_refused():
  with pytest.raises(UserError, match="Allowed: glide"):
    glide_weights.to_released({}, {}, layout="torch")

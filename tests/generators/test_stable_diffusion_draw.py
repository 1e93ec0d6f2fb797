"""Stable Diffusion as a generator: folders, files, guidance and batches."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sd
from safetensors.numpy import load_file, save_file

from synthjax.generators import load_generator, stable_diffusion
from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.folder import describe
from synthjax.models.stable_diffusion.weights import TOKENIZER, WEIGHTS, pack
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files

PROMPTS = ["a red apple", "a fish", "a car"]


@pytest.fixture(scope="module")
def block(tmp_path_factory):
  return tiny_sd.write_file(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def generator(block):
  return load_generator("stable_diffusion", **block)


def keys(n=3):
  return jax.random.split(jax.random.key(0), n)


def test_an_image_depends_on_its_prompt_and_key_alone(generator):
  """Three images in batches of two are those drawn in another order."""
  images = generator.draw(PROMPTS, keys())
  assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
  assert images.std() > 10
  assert generator.image_size == generator.reference_size == 16
  again = generator.draw(PROMPTS[::-1], keys()[::-1])[::-1]
  np.testing.assert_array_equal(images, again)
  pieces = list(generator.stream(PROMPTS, keys()))
  assert [len(piece) for piece in pieces] == [2, 1]
  np.testing.assert_array_equal(images, np.concatenate(pieces))
  others = generator.draw(["a dog", *PROMPTS[1:]], keys())
  assert np.any(others[0] != images[0])
  np.testing.assert_array_equal(others[1:], images[1:])


@pytest.mark.slow
def test_real_guidance_starts_from_the_noised_latent_of_the_image(
  tmp_path, block
):
  """A UNet that predicts no noise leaves its start, which is known, as it is.

  From the last of 100 steps, DDIM walks from timestep 1 to 0.
  """
  params, about = files.load_params(block["weights"])
  for name, weight in params["params"]["unet"]["conv_out"].items():
    params["params"]["unet"]["conv_out"][name] = np.zeros_like(weight)
  path = tmp_path / "none.safetensors"
  files.save_params(path, params, about)
  changes = {"weights": path, "respacing": 100}
  generator = load_generator("stable_diffusion", **block | changes)
  rng = np.random.default_rng(0)
  references = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
  images = generator.draw(
    PROMPTS[:2], keys(2), references=references, start_steps=1
  )

  networks, params, _ = stable_diffusion.load_networks(
    path, block["tokenizer"], "float32"
  )
  rngs = jax.vmap(jax.random.split)(keys(2))[:, 1]
  noise = np.stack([jax.random.normal(rng, (8, 8, 4)) for rng in rngs])
  before, at = np.cumprod(1 - networks.betas)[:2]

  @jax.jit
  def expect(vae):
    apply = partial(networks.vae.apply, {"params": vae})
    mean, _ = apply(references / jnp.float32(127.5) - 1, method="encode")
    x = at**0.5 * 0.18215 * mean + (1 - at) ** 0.5 * noise
    return apply((before / at) ** 0.5 * x / 0.18215, method="decode")

  want = np.clip((np.asarray(expect(params["vae"])) + 1) * 127.5, 0, 255)
  assert want.std() > 10
  assert np.abs(images - want).max() < 0.51
  with pytest.raises(ValueError, match="both"):
    generator.draw(PROMPTS[:2], keys(2), references=references)


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [{"sampler": "ancestral", "image_size": 8}, {"sampler": "dpmpp_2m"}],
)
def test_other_samplers_and_sizes_draw_too(block, changes):
  generator = load_generator(
    "stable_diffusion", **block | changes | {"respacing": 4}
  )
  images = generator.draw(PROMPTS[:2], keys(2))
  side = changes.get("image_size", 16)
  assert images.shape == (2, side, side, 3) and images.std() > 10


@pytest.mark.slow
def test_a_scale_of_1_and_an_interval_of_no_step_follow_the_prompt_alone(block):
  plain, outside, negative = (
    load_generator("stable_diffusion", **block | changes)
    .draw(PROMPTS[:2], keys(2))
    .astype(int)
    for changes in (
      {"guidance_scale": 1.0},
      {"guidance_interval": (998, 999)},
      {"negative_prompt": "a fish"},
    )
  )
  assert np.abs(plain - outside).max() <= 1
  assert np.any(plain[0] != negative[0])
  # Led away from what it is to show, an image shows what it is to show.
  assert np.abs(plain[1] - negative[1]).max() <= 1


@pytest.mark.slow
def test_bfloat16_draws_nearly_the_same(block, generator):
  exact = generator.draw(PROMPTS[:2], keys(2)).astype(int)
  half = dict.fromkeys(("dtype", "vae_dtype"), "bfloat16")
  rough = load_generator("stable_diffusion", **block | half)
  rough = rough.draw(PROMPTS[:2], keys(2)).astype(int)
  between = np.abs(exact - exact[::-1]).mean()
  assert np.abs(exact - rough).mean() < between / 10


def test_the_identity_tells_weights_and_sampling_apart(block):
  identity = load_generator("stable_diffusion", **block).identity
  json.dumps(identity)
  assert identity["weights"] == files.sha256(block["weights"])
  for changes in (
    {"guidance_scale": 2.0},
    {"negative_prompt": "blurred"},
    {"respacing": 3},
    {"sampler": "ancestral"},
    {"image_size": 32},
  ):
    assert (
      load_generator("stable_diffusion", **block | changes).identity != identity
    )
  # How many are drawn at once changes no image.
  assert (
    load_generator("stable_diffusion", **block | {"batch_size": 4}).identity
    == identity
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sampler": "ddpm"}, "sampler='ddpm': needed one of ancestral"),
    ({"image_size": 18}, "multiples of 4 px, best 16"),
    ({"respacing": 1000}, "keep fewer steps"),
    ({"guidance_interval": (5, 2000)}, "guidance_interval"),
  ],
)
def test_bad_fields_are_refused(block, changes, message):
  with pytest.raises(UserError, match=message):
    load_generator("stable_diffusion", **block | changes)


@pytest.mark.parametrize(
  ("version", "old_names", "dtype"),
  [("v1", True, np.float16), ("v2", False, np.float32)],
)
def test_a_folder_is_read_packed_and_written_back(
  tmp_path, version, old_names, dtype
):
  """Both versions, both names of attention, half and whole precision."""
  folder, packed = tmp_path / "sd", tmp_path / "packed"
  weights, _ = tiny_sd.write_folder(
    folder, version, dtype=dtype, old_names=old_names
  )
  pack(folder, packed)
  assert (
    load_file(packed / WEIGHTS)["params/vae/quant_conv/bias"].dtype == dtype
  )

  for source in (folder, packed / WEIGHTS):
    networks, params, hashes = stable_diffusion.load_networks(
      source, None, "float32"
    )
    json.dumps(hashes)
    about = {"linear_projection": version == "v2"}
    layout = "diffusers_old" if old_names else "diffusers"
    back = convert.to_released({"params": params}, about, layout=layout)
    assert back.keys() == weights.keys()
    for part, want in weights.items():
      assert back[part].keys() == want.keys()
      for name, weight in want.items():
        np.testing.assert_array_equal(
          back[part][name], weight.astype(dtype), err_msg=name
        )
    end = networks.tokenizer.clip_vocab_size - 1
    tokens = networks.tokens(["a"])[0, 0].tolist()
    assert tokens[:3] == [end - 1, tokens[1], end]
    assert set(tokens[3:]) == {0 if version == "v2" else end}
  assert networks.prediction == (
    "v_prediction" if version == "v2" else "epsilon"
  )
  assert networks.unet.heads == ((2, 4) if version == "v2" else (2, 2))
  assert (packed / TOKENIZER).exists()


def test_a_folder_of_today_is_the_same(tmp_path):
  """One file of the tokenizer, as of transformers 5, and weights in parts."""
  weights, _ = tiny_sd.write_folder(tmp_path)
  old, _ = convert.read_tokenizer(tmp_path)
  before, about = convert.from_folder(tmp_path)
  merges, vocab = tiny_sd.made_up_words()
  pairs = [line.split(" ") for line in merges.splitlines()[1:]]
  model = {"type": "BPE", "vocab": vocab, "merges": pairs}
  whole = tmp_path / "tokenizer" / "tokenizer.json"
  whole.write_text(json.dumps({"version": "1.0", "model": model}))
  # An older folder has all three, and keeps its identity.
  assert whole not in convert.files_of(tmp_path)
  for name in ("vocab.json", "merges.txt"):
    (whole.parent / name).unlink()
  (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
  names, where = sorted(weights["unet"]), {}
  for i in range(2):
    part = tmp_path / "unet" / f"part{i}.safetensors"
    save_file({k: weights["unet"][k] for k in names[i::2]}, part)
    where |= dict.fromkeys(names[i::2], part.name)
  index = "diffusion_pytorch_model.safetensors.index.json"
  (tmp_path / "unet" / index).write_text(json.dumps({"weight_map": where}))

  new, path = convert.read_tokenizer(tmp_path)
  assert path == whole and new.bpe.to_str() == old.bpe.to_str()
  after, same = convert.from_folder(tmp_path)
  assert same == about
  jax.tree.map(np.testing.assert_array_equal, after, before)
  paths = convert.files_of(tmp_path)
  assert {whole, part, tmp_path / "unet" / index} <= {*paths}

  model["vocab"] = vocab | {"a": 7}
  other = tmp_path / "tokenizer.json"
  other.write_text(json.dumps({"version": "1.0", "model": model}))
  with pytest.raises(UserError, match="other ids for 1 of these, such as a"):
    bpe.load(other)


def test_all_that_does_not_fit_is_listed_at_once():
  weights, configs = tiny_sd.released()
  del weights["unet"]["conv_in.bias"]
  weights["vae"]["more"] = np.zeros(3)
  weights["text_encoder"] |= {
    "text_model.final_layer_norm.bias": np.zeros(5, np.float32)
  }
  with pytest.raises(UserError) as error:
    convert.from_released(weights, configs)
  for part in (
    "params/conv_in/bias: weights have None",
    "more: no rule takes it",
    "params/ln_final/bias: weights have (5,)",
  ):
    assert part in str(error.value)


def test_what_configurations_ask_for_in_vain_is_listed_at_once():
  _, configs = tiny_sd.released()
  configs["unet"] |= {"act_fn": "mish"}
  configs["vae"] |= {"use_quant_conv": False}
  configs["scheduler"] |= {"prediction_type": "sample"}
  del configs["text_encoder"]["hidden_size"]
  with pytest.raises(UserError) as error:
    describe(configs)
  for part in ("act_fn", "use_quant_conv", "prediction_type", "hidden_size"):
    assert part in str(error.value)


def test_networks_that_do_not_fit_are_refused():
  _, configs = tiny_sd.released()
  configs["unet"] |= {"in_channels": 9, "cross_attention_dim": 40}
  configs["unet"] |= {"up_block_types": ["UpBlock2D"] * 2}
  with pytest.raises(UserError) as error:
    describe(configs)
  for part in ("inpainting", "hidden_size=32", "does not mirror"):
    assert part in str(error.value)


def test_an_incomplete_folder_is_refused_with_its_missing_files(tmp_path):
  (tmp_path / "unet").mkdir()
  (tmp_path / "unet" / "config.json").write_text("{}")
  with pytest.raises(UserError, match="the weights in unet/") as error:
    convert.from_folder(tmp_path)
  assert "scheduler/scheduler_config.json" in str(error.value)
  assert "unet/config.json" not in str(error.value)


def test_a_file_of_another_model_is_refused(tmp_path, block):
  files.save_params(tmp_path / "x.safetensors", {"a": 1.0}, {"kind": "clip"})
  with pytest.raises(UserError, match="holds 'clip'"):
    load_generator(
      "stable_diffusion", **block | {"weights": tmp_path / "x.safetensors"}
    )


def test_another_vocabulary_is_refused(tmp_path):
  merges, vocab = tiny_sd.made_up_words()
  (tmp_path / "merges.txt").write_text(merges)
  other = vocab | {"a": 7}
  (tmp_path / "vocab.json").write_text(json.dumps(other))
  with pytest.raises(UserError, match="other ids for 1 of these, such as a"):
    bpe.read(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_prompts_are_filled_up_behind_their_first_end():
  words = bpe.load()
  end = words.clip_vocab_size - 1
  tokens = np.array(
    [[end - 1, 5, end, 0, 0], [end - 1, 5, 6, 7, end]], np.int32
  )
  got = bpe.pad_clip(tokens, words, bpe.END)
  assert got.tolist() == [[end - 1, 5, end, end, end], tokens[1].tolist()]
  with pytest.raises(UserError, match="no token"):
    bpe.pad_clip(tokens, words, "<pad>")


def test_names_of_text_towers_with_and_without_the_prefix_are_one():
  weights = tiny_sd.released()[0]["text_encoder"]
  bare = {k.removeprefix("text_model."): w for k, w in weights.items()}
  assert bare.keys() != weights.keys()
  got, want = map(convert.openai_names, (bare, weights))
  assert got.keys() == want.keys()

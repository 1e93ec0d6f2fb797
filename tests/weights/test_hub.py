"""Weights of the Hugging Face hub and of local folders, by any names."""

import json
import os
import pathlib
import subprocess
import sys

import clip_keys
import jax
import numpy as np
import pytest
import tiny_flux2
import tiny_sd
import torch_pickles
from huggingface_hub import constants
from safetensors.numpy import save_file
from tiny_release import run

from synthjax import encoders
from synthjax.generators import load_generator
from synthjax.generators import stable_diffusion as generators
from synthjax.models.clip import weights as clip_weights
from synthjax.models.flux2 import weights as flux2
from synthjax.runtime import hub as runtime_hub
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files, snapshots

pytest_plugins = ("hub_server",)  # fixtures
ROOT = pathlib.Path(__file__).parents[2]
PLACE = "hf://org/clip"


@pytest.fixture(scope="module")
def released():
  """A tiny CLIP as Hugging Face's transformers write it, and its config."""
  vocab = bpe.load().clip_vocab_size
  shapes = clip_keys.openai(**clip_keys.VIT, length=10, vocab=vocab)
  variables, about = clip_weights.from_released(
    clip_keys.randoms(shapes), **clip_keys.HEADS
  )
  weights = clip_weights.to_released(variables, about, "huggingface")
  model = about["model"]
  settings = {
    "model_type": "clip",
    **{
      f"{tower}_config": {
        "hidden_act": clip_keys.HEADS["activation"],
        "num_attention_heads": model[f"{tower}_heads"],
        "hidden_size": model[f"{tower}_width"],
        "num_hidden_layers": model[f"{tower}_layers"],
      }
      for tower in ("vision", "text")
    },
  }
  settings["vision_config"]["patch_size"] = model["patch_size"]
  settings["vision_config"]["image_size"] = model["image_size"]
  arrays = {k: np.ascontiguousarray(w) for k, w in weights.items()}
  return arrays, settings


def fill(folder, released, name="model.safetensors"):
  """Writes a folder of a CLIP; returns the file of its weights."""
  weights, settings = released
  folder.mkdir(parents=True)
  save_file(weights, folder / name)
  (folder / "config.json").write_text(json.dumps(settings))
  (folder / "tokenizer.json").write_bytes(bpe.EMBEDDED.read_bytes())
  return folder / name


def split(folder, weights, stem="model", end=".safetensors", variant=""):
  """Writes weights into two files and an index, as large ones are."""
  names, places = sorted(weights), {}
  for i, part in enumerate((names[::2], names[1::2]), start=1):
    file = f"{stem}{variant}-0000{i}-of-00002{end}"
    save_file({name: weights[name] for name in part}, folder / file)
    places |= dict.fromkeys(part, file)
  index = folder / f"{stem}{end}.index{variant}.json"
  index.write_text(json.dumps({"weight_map": places}))


def same_params(one, other):
  one, other = (files.load_params(path)[0] for path in (one, other))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def locate(place, family="clip"):
  return files.locate(str(place), field="encoder.weights", family=family)


# --- what the hub gives -----------------------------------------------------


def test_an_encoder_of_the_hub_is_that_of_its_files(hub, released):
  fill(hub.folder("org/clip"), released)
  (hub.folder("org/clip") / "pytorch_model.bin").write_bytes(b"not needed")
  encoder = encoders.load_encoder(PLACE)
  assert encoder.identity["tokenizer"] == files.sha256(bpe.EMBEDDED)
  made, about = files.load_params(locate(PLACE))
  weights = clip_weights.to_released(made, about, "huggingface")
  for name, weight in released[0].items():
    np.testing.assert_array_equal(weights[name], weight)
  fetched = {line.rpartition("/")[2] for line in hub.asked if "resolve" in line}
  assert fetched == {"model.safetensors", "config.json", "tokenizer.json"}


def test_a_conversion_is_made_once_and_is_the_same_of_a_local_copy(
  hub, released, tmp_path, capsys
):
  fill(hub.folder("org/clip"), released)
  made = locate(PLACE)
  assert "converted to" in capsys.readouterr().err
  stamp = made.stat().mtime
  assert locate(PLACE) == made and made.stat().mtime == stamp
  fill(tmp_path / "copy", released)
  copy = locate(tmp_path / "copy")
  assert copy != made and files.sha256(copy) == files.sha256(made)
  assert "converted to" in capsys.readouterr().err


def test_a_revision_is_that_of_the_reference(hub, released):
  weights, settings = released
  fill(hub.folder("org/clip"), released)
  older = {name: w + 1 for name, w in weights.items()}
  fill(hub.folder("org/clip", revision="v1"), (older, settings))
  new, old = locate(PLACE), locate(f"{PLACE}@v1")
  assert files.sha256(new) != files.sha256(old)
  from hub_server import commit

  by_commit = f"{PLACE}@{commit(hub.folder('org/clip', revision='v1'))}"
  assert files.sha256(locate(by_commit)) == files.sha256(old)


def test_what_was_fetched_is_found_without_a_network(
  hub, released, monkeypatch
):
  fill(hub.folder("org/clip"), released)
  made = locate(PLACE)
  asked = len(hub.asked)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert locate(PLACE) == made
  with pytest.raises(UserError, match="no tokenizer.*all that was fetched"):
    bpe.beside(PLACE)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
  assert locate(PLACE) == made and len(hub.asked) == asked
  with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
    locate("hf://org/other")


def test_a_private_repository_needs_a_token(hub, released, monkeypatch):
  fill(hub.folder("org/clip"), released)
  hub.private.add("org/clip")
  with pytest.raises(UserError, match="HF_TOKEN"):
    locate(PLACE)
  monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
  assert locate(PLACE).exists()


@pytest.mark.parametrize(
  ("place", "words"),
  [
    ("hf://org/clap", "is not there, or is private"),
    ("hf://org/clip@v9", "no such revision"),
    ("hf://org/clip/nothing.bin", "has no weights of a known name"),
    ("hf://clip", "give hf://ORG/NAME"),
    ("hf://org/clip/../../other", "give hf://ORG/NAME"),
    ("hf://org/clip@a b/c@d", "give hf://ORG/NAME"),
  ],
)
def test_a_place_that_is_not_there_is_explained(hub, place, words):
  hub.folder("org/clip").mkdir(parents=True)
  (hub.folder("org/clip") / "config.json").write_text("{}")
  with pytest.raises(UserError, match=words):
    locate(place)


@pytest.mark.parametrize(
  ("place", "parts"),
  [
    ("hf://a/b", ("a/b", None, "", False)),
    ("hf://a/b@v1/", ("a/b", "v1", "", False)),
    ("hf://a/b@refs/pr/1/c/d.bin", ("a/b", "refs/pr/1", "c/d.bin", False)),
    ("hf://datasets/a/b/c", ("a/b", None, "c", True)),
  ],
)
def test_a_place_has_a_repository_a_revision_and_a_file(place, parts):
  assert runtime_hub.parse(place) == parts


def test_the_hubs_own_variables_count(hub, released, tmp_path):
  """In a process of its own, as they are read once."""
  fill(hub.folder("org/clip"), released)
  hub.private.add("org/clip")
  code = (
    "from synthjax.runtime import hub\n"
    f"print(hub.snapshot('{PLACE}', lambda names: ['config.json']))"
  )
  env = {
    "HF_ENDPOINT": hub.url,
    "HF_HOME": str(tmp_path / "home"),
    "HF_TOKEN": "hf_of_this_test",
    "HF_HUB_OFFLINE": "0",
  }
  run = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | env,
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert run.stdout.startswith(str(tmp_path / "home" / "hub")), run.stderr


# --- today's folders --------------------------------------------------------


@pytest.mark.parametrize(
  ("end", "variant"),
  [(".safetensors", ""), (".safetensors", ".fp16"), (".bin", "")],
)
def test_weights_in_several_files_are_fetched_whole(
  hub, released, end, variant
):
  """An index may call its files what it likes: their content decides."""
  whole = fill(hub.folder("org/whole"), released)
  folder = hub.folder("org/clip")
  fill(folder, released).unlink()
  split(folder, released[0], end=end, variant=variant)
  same_params(locate(PLACE), locate("hf://org/whole"))
  assert whole.exists()


@pytest.mark.parametrize(
  "name", ["model.fp16.safetensors", "anything.safetensors"]
)
def test_other_names_of_weights_are_found(hub, released, name):
  weights, settings = released
  half = {k: w.astype(np.float16) for k, w in weights.items()}
  fill(hub.folder("org/clip"), (half, settings), name)
  same_params(locate(PLACE), locate(f"{PLACE}/{name}"))


def test_two_files_of_unknown_names_are_not_chosen_between(hub, released):
  path = fill(hub.folder("org/clip"), released, "one.safetensors")
  (path.parent / "two.safetensors").write_bytes(path.read_bytes())
  with pytest.raises(UserError, match="one.safetensors.*Name one of several"):
    locate(PLACE)
  assert locate(f"{PLACE}/two.safetensors").exists()
  assert bpe.beside(f"{PLACE}/two.safetensors").name == "tokenizer.json"


def test_whole_safetensors_come_before_pickles_and_half_precision():
  names = ["pytorch_model.bin", "model.fp16.safetensors", "flax_model.msgpack"]
  assert snapshots.weights_name(names) == "model.fp16.safetensors"
  names += ["model.safetensors.index.json", "rust_model.ot"]
  assert snapshots.weights_name(names) == "model.safetensors.index.json"
  assert snapshots.weights_name(["unet/a.bin", "b.md"]) is None


@pytest.mark.faults
def test_a_pickle_of_the_hub_runs_no_code(hub, tmp_path):
  """`posix.system` would touch a file."""
  folder = hub.folder("org/clip")
  folder.mkdir(parents=True)
  call = torch_pickles.Call(
    torch_pickles.Name("posix", "system"), (f"touch {tmp_path / 'ran'}",)
  )
  torch_pickles.zip_file(folder / "pytorch_model.bin", {"a": call})
  with pytest.raises(UserError, match="posix"):
    locate(PLACE)
  assert not (tmp_path / "ran").exists()


def test_of_several_families_the_one_that_fits_converts(hub, released):
  fill(hub.folder("org/clip"), released)
  assert locate(PLACE, ("resnet", "vit", "clip")).name == "clip.safetensors"
  with pytest.raises(UserError, match="cannot be converted.*Nor as another"):
    locate(f"{PLACE}/model.safetensors", ("resnet", "vit"))


def test_a_card_names_the_repository():
  about = files.describe(PLACE, "0" * 64)
  assert (about["name"], about["sha256"]) == (PLACE, "0" * 64)


def test_a_tokenizer_is_found_by_the_forms_that_its_reader_takes(hub):
  folder = hub.folder("org/t5")
  folder.mkdir(parents=True)
  for name in ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model"):
    (folder / name).write_text(name)
  place = "hf://org/t5"
  assert bpe.locate(place, [["spiece.model"]]).read_text() == "spiece.model"
  # As older folders have both; the pair is what `clip_bpe` knows.
  path = bpe.locate(place)
  assert path.name == "merges.txt" and (path.parent / "vocab.json").exists()
  assert bpe.locate(f"{place}/tokenizer.json").name == "tokenizer.json"
  assert bpe.locate(str(folder)).name == "merges.txt"
  assert not bpe.locate("").is_file()  # nor searches the working folder


# --- Stable Diffusion -------------------------------------------------------


@pytest.mark.slow
def test_stable_diffusion_of_the_hub_is_its_folder(hub, tmp_path):
  folder = hub.folder("org/sd")
  tiny_sd.write_folder(folder)
  (folder / "v1-5-pruned.ckpt").write_bytes(b"huge")
  unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
  (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(
    unet.read_bytes()
  )
  path = locate("hf://org/sd", "stable_diffusion")
  kept = set(os.listdir(path / "unet"))
  assert kept == {"config.json", unet.name}
  assert not (path / "v1-5-pruned.ckpt").exists()
  _, ours, hashes = generators.load_networks(path, None, "float32")
  _, theirs, same = generators.load_networks(folder, None, "float32")
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert hashes == same
  run("pack", "hf://org/sd", f"--output={tmp_path / 'packed'}")
  assert (tmp_path / "packed" / "stable_diffusion.safetensors").exists()


@pytest.mark.slow
def test_sdxl_lightning_is_base_but_for_the_unet(hub, capsys):
  """By its name alone; the first step of the base fetches its UNet, too."""
  base = hub.folder("stabilityai/stable-diffusion-xl-base-1.0")
  weights, _ = tiny_sd.write_folder(base, "xl")
  lightning = hub.folder("ByteDance/SDXL-Lightning")
  lightning.mkdir(parents=True)
  file = lightning / "sdxl_lightning_4step_unet.safetensors"
  save_file(weights["unet"], file)
  run("fetch", "sdxl_lightning_4")
  told = capsys.readouterr().out.splitlines()
  assert "licence OpenRAIL++" in told[0] and told[2].endswith(file.name)
  unet = pathlib.Path(told[1]) / "unet"
  assert os.listdir(unet) == ["config.json"]
  few = load_generator("sdxl_lightning_4")
  assert few.num_steps == 4 and few.image_size == 16
  assert few.identity["distilled"] == files.sha256(file)
  load_generator("sdxl_lightning_4", base_steps=1)
  assert len(os.listdir(unet)) == 2


def test_of_flux2_what_is_read_is_fetched_by_its_name(hub, capsys):
  folder = hub.folder("black-forest-labs/FLUX.2-klein-4B")
  tiny_flux2.write_folder(folder, tiny_flux2.released())
  (folder / "flux-2-klein-4b.safetensors").write_bytes(b"huge")
  run("fetch", "flux2_klein")
  told = capsys.readouterr().out.splitlines()
  assert "licence Apache-2.0" in told[0]
  assert told[2] == '  sx.load_generator("flux2_klein")'
  path = pathlib.Path(told[1])
  there = {pathlib.Path(file) for file in path.rglob("*") if file.is_file()}
  assert there == {pathlib.Path(file) for file in flux2.files_of(path)}


# --- the command ------------------------------------------------------------


def test_weights_of_any_name_are_converted_by_their_kind(
  hub, released, tmp_path, capsys
):
  fill(hub.folder("org/clip"), released, "mine.safetensors")
  out = tmp_path / "out"
  run("convert", "--kind=clip", PLACE, f"--output={out}")
  assert "vision_heads=" in capsys.readouterr().out
  same_params(out / "clip.safetensors", locate(PLACE))
  encoders.check_encoder(
    name="clip", weights=str(out / "clip.safetensors"), batch_size=1
  )  # the tokenizer lies beside them


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["convert", "--kind=clap", "x", "--output=y"], "did you mean 'clip'?"),
    (["convert", "--kind=clip", "x"], "--output=FOLDER"),
    (["fetch", "--kind=clip", "glide"], "--kind is for `convert"),
  ],
)
def test_a_misspelt_kind_ends_in_one_message(args, words, capsys):
  run(*args, code=2)
  assert words in capsys.readouterr().err

"""Released weights on the command line: list, fetch, convert."""

import gzip
import importlib
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import clip_keys
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_release import SIZES, released_text, run

from synthjax.models.glide import noised_clip_weights
from synthjax.tokenizers import bpe
from synthjax.weights import files
from synthjax.weights.catalogue import FAMILIES, RELEASED

pytest_plugins = ("release_server",)  # fixtures
ROOT = pathlib.Path(__file__).parents[2]


# --- the table --------------------------------------------------------------


def test_every_entry_is_whole():
  for name, entry in RELEASED.items():
    assert entry.family in FAMILIES and entry.licence and entry.what
    names = [file.name for file in entry.files]
    assert len(set(names)) == len(names)
    used = [source for made in entry.makes.values() for source in made.sources]
    assert set(used) == set(names), name
    for file in entry.files:
      assert file.url.startswith("https://")
      assert file.url.endswith(f"/{file.name}")
      assert re.fullmatch(r"[0-9a-f]{8}([0-9a-f]{56})?", file.sha256 or "0" * 8)
    for made in entry.makes:
      weighty = made.endswith(".safetensors")
      assert weighty or made in ("tokenizer.json", "spiece.model")
      assert not weighty or len(entry.makes[made].sources) == 1


def test_addresses_that_state_a_hash_state_the_one_of_the_table():
  full, digits = 0, 0
  for entry in RELEASED.values():
    for file in entry.files:
      if found := re.search(r"/([0-9a-f]{64})/", file.url):
        assert file.sha256 == found[1]
        full += 1
      if found := re.search(r"-([0-9a-f]{8})\.pth$", file.name):
        assert file.sha256.startswith(found[1])
        digits += 1
  assert full == 4 and digits == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_converter(family):
  assert callable(importlib.import_module(FAMILIES[family]).from_released)


def test_configs_have_the_fields_that_the_results_are_for():
  path = ROOT / "configs" / "ablation_zeroshot.py"
  config = runpy.run_path(str(path))["get_config"]()
  for name in ("glide", "clip_rn50"):
    for made in RELEASED[name].makes.values():
      block = config
      for key in made.field.split("."):
        assert key in block, made.field
        block = block[key]


# --- list -------------------------------------------------------------------


def state_of(name, capsys):
  run("list")
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if line.startswith(f"{name} ")]
  return line


def test_the_list_shows_the_state_of_each(tiny, publisher, capsys):
  assert state_of("tiny", capsys).endswith(" not fetched")
  tiny.mkdir(parents=True)
  part = tiny / "text.pt.part"
  part.write_bytes(b"x" * 4000)
  assert state_of("tiny", capsys).endswith("partial 0 MB")  # of who knows what
  part.with_name("text.pt.part.json").write_text('{"total": 16000}')
  # 4 of 16 + 3 + 1 kB, the last two as the table estimates them.
  assert state_of("tiny", capsys).endswith("partial 20 %")
  run("fetch", "tiny")
  assert state_of("tiny", capsys).endswith("converted")
  (tiny / "text.safetensors").unlink()
  assert state_of("tiny", capsys).endswith("fetched")


def test_the_list_of_one_shows_addresses_and_hashes(tiny, capsys):
  run("list", "tiny")
  out = capsys.readouterr().out
  entry = RELEASED["tiny"]
  for file in entry.files:
    assert file.url in out and (file.sha256 or "not published") in out
  assert entry.files[2].others[0] in out and "of this test" in out
  assert "glide" not in out.replace("noised", "")


def test_the_list_needs_no_network_and_no_jax(tmp_path):
  code = (
    "import sys, socket\n"
    "from synthjax.weights.__main__ import main\n"
    "socket.getaddrinfo = socket.create_connection = None\n"
    "main(['list']); print('jax' in sys.modules)"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "SYNTHJAX_CACHE": str(tmp_path)},
  )
  assert result.stdout.endswith("False\n"), result.stderr
  assert "clip_rn50" in result.stdout and str(tmp_path) in result.stdout


# --- fetch ------------------------------------------------------------------


def test_a_fetch_leaves_weights_and_a_tokenizer(tiny, server, capsys):
  run("fetch", "tiny")
  out = capsys.readouterr().out
  for words in (
    "a tiny text tower, licence MIT (of this test)",
    "text.pt: no hash is published; remembered, SHA-256",
    "vocab.bpe: as published",
    "--config.x.weights=released:tiny/text.safetensors",
    "--config.x.tokenizer=released:tiny/tokenizer.json",
    str(tiny),
  ):
    assert words in out
  path = files.locate("released:tiny", field="x.weights", family="clip")
  variables, about = files.load_params(path, dtype=None)
  assert about["model"] == SIZES and about["tower"] == "text"
  assert about["sources"] == {"text.pt": files.sha256(tiny / "text.pt")}
  back = noised_clip_weights.to_released(variables, about)
  for name, value in released_text().items():
    assert back[name].dtype == np.float16
    np.testing.assert_array_equal(back[name], value)
  words = bpe.load(bpe.locate("released:tiny/tokenizer.json"))
  assert words.encode("AB a") == [256, *words.encode(" "), words.encode("a")[0]]


def test_float32_stays_float32(tiny, publisher):
  save_file(released_text(np.float32), publisher / "text.pt")
  run("fetch", "tiny")
  variables, _ = files.load_params(tiny / "text.safetensors", dtype=None)
  assert {w.dtype.name for w in jax.tree.leaves(variables)} == {"float32"}


def test_an_existing_file_is_not_fetched_again(tiny, server, capsys):
  run("fetch", "tiny")
  assert len(server.asked) == 3
  (tiny / "text.pt").unlink()  # it has been converted
  run("fetch", "tiny")
  assert len(server.asked) == 3
  assert "tiny is already there" in capsys.readouterr().out


@pytest.mark.faults
def test_damaged_results_are_made_again_without_a_download(tiny, server):
  run("fetch", "tiny")
  path = tiny / "text.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:1000])
  run("fetch", "tiny")
  assert path.read_bytes() == whole
  assert len(server.asked) == 3


@pytest.mark.faults
def test_a_file_that_is_published_anew_is_noticed(
  tiny, publisher, server, capsys
):
  run("fetch", "tiny")
  before = files.sha256(tiny / "text.pt")
  for path in (tiny / "text.pt", tiny / "text.safetensors"):
    path.unlink()
  other = {k: w + 1 for k, w in released_text().items()}
  save_file(other, publisher / "text.pt")
  run("fetch", "tiny", code=2)
  err = capsys.readouterr().err
  assert f"expected SHA-256 {before}" in err
  assert files.sha256(publisher / "text.pt") in err
  assert not (tiny / "text.safetensors").exists()


@pytest.mark.faults
def test_a_file_that_is_not_the_published_one_is_refused(
  tiny, publisher, capsys
):
  (publisher / "vocab.bpe").write_text("#version: 0.2\nb a\n")
  run("fetch", "tiny", code=2)
  err = capsys.readouterr().err
  assert "is not the expected file" in err
  assert RELEASED["tiny"].files[2].others[0] in err  # where else to get it


@pytest.mark.faults
def test_weights_that_do_not_fit_are_named(tiny, publisher, capsys):
  state = released_text()
  del state["blocks.output.ln.g"]
  save_file(state, publisher / "text.pt")
  run("fetch", "tiny", code=2)
  err = capsys.readouterr().err
  assert f"{tiny / 'text.pt'} cannot be converted" in err
  assert "output/ln/scale" in err
  assert not (tiny / "text.safetensors").exists()


def test_a_mirror_is_asked_instead(tiny, publisher, server, monkeypatch):
  (publisher.parent / "all").mkdir()
  publisher.rename(publisher.parent / "all" / "tiny")
  monkeypatch.setenv("SYNTHJAX_MIRROR", f"{server.url}/all/")
  run("fetch", "tiny")
  assert server.asked[0] == "/all/tiny/text.pt"
  assert (tiny / "tokenizer.json").exists()


# --- convert ----------------------------------------------------------------


def test_files_that_the_user_brings_are_converted(tiny, publisher, capsys):
  mine = publisher.parent / "my own weights.bin"
  (publisher / "text.pt").rename(mine)
  for name in ("encoder.json", "vocab.bpe"):
    data = (publisher / name).read_bytes()
    (publisher / f"{name}.gz").write_bytes(gzip.compress(data))
  run(
    "convert",
    "tiny",
    str(mine),
    str(publisher / "encoder.json.gz"),
    str(publisher / "vocab.bpe.gz"),
  )
  assert "released:tiny/text.safetensors" in capsys.readouterr().out
  run("check", "tiny")
  run("fetch", "tiny")
  assert "already there" in capsys.readouterr().out


def test_weights_alone_are_converted_to_any_folder(
  tiny, publisher, tmp_path, capsys
):
  out = tmp_path / "out"
  run("convert", "tiny", str(publisher / "text.pt"), f"--output={out}")
  assert [p.name for p in out.iterdir()] == ["text.safetensors"]
  assert "tokenizer.json was not made: it needs encoder.json and vocab.bpe" in (
    capsys.readouterr().out
  )
  assert not tiny.exists()


def test_a_file_of_another_release_is_converted_with_a_warning(
  tiny, publisher, capsys
):
  (publisher / "vocab.bpe").write_text("#version: other\na b\n")
  run("convert", "tiny", *map(str, publisher.glob("*[en]")), code=0)
  run("convert", "tiny", str(publisher / "vocab.bpe"))
  assert "differs from the published file" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.parametrize(
  ("given", "words"),
  [
    ([], "Give the files after the name"),
    (["none.pt"], "There is no file"),
    (["text.pt", "text.pt"], "one too many"),
    (["text.pt", "vocab.json"], "vocab.json is not one of them"),
    (["page.pt"], "web page"),
  ],
)
def test_unsuitable_files_are_named(tiny, publisher, given, words, capsys):
  (publisher / "vocab.json").write_text("{}")
  (publisher / "page.pt").write_text("<!doctype html><p>404")
  run("convert", "tiny", *(str(publisher / name) for name in given), code=2)
  err = capsys.readouterr().err
  assert words in err and err.startswith("synthjax: ")


# --- convert: the layouts of today --------------------------------------------


def parts_of(folder, weights, stem="model"):
  """Saves weights as two files and their index, as transformers does."""
  folder.mkdir()
  names, where = sorted(weights), {}
  for i in (1, 2):
    part = f"{stem}-0000{i}-of-00002.safetensors"
    save_file({k: weights[k] for k in names[i - 1 :: 2]}, folder / part)
    where |= dict.fromkeys(names[i - 1 :: 2], part)
  index = folder / f"{stem}.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
  return index


def test_the_index_of_several_files_is_read(tiny, tmp_path, capsys):
  index = parts_of(tmp_path / "parts", released_text())
  out = tmp_path / "out"
  run("convert", "tiny", str(index), f"--output={out}")
  variables, about = files.load_params(out / "text.safetensors", dtype=None)
  back = noised_clip_weights.to_released(variables, about)
  for name, value in released_text().items():
    np.testing.assert_array_equal(back[name], value)
  part = index.parent / "model-00001-of-00002.safetensors"
  assert about["sources"][part.name] == files.sha256(part)
  # One of them alone is not enough, and none may be missing.
  run("convert", "tiny", str(part), code=2)
  assert "give their index" in capsys.readouterr().err
  part.unlink()
  run("convert", "tiny", str(index), code=2)
  assert f"Missing: {part.name}" in capsys.readouterr().err


def test_files_of_any_names_are_said_to_be_which(tiny, publisher, tmp_path):
  out = tmp_path / "out"
  given = {"text.pt": "a.json", "encoder.json": "b", "vocab.bpe": "c.txt"}
  for old, new in given.items():
    (publisher / old).rename(publisher / new)
  words = [f"{old}={publisher / new}" for old, new in given.items()]
  run("convert", "tiny", *words, f"--output={out}")
  assert {p.name for p in out.iterdir()} == {
    "text.safetensors",
    "tokenizer.json",
  }


def test_a_clip_and_its_config_are_converted(tmp_path, monkeypatch, capsys):
  """Beside it, given, or stated by hand."""
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  source, out = tmp_path / "clip" / "mine.bin", tmp_path / "out"
  source.parent.mkdir()
  save_file(clip_keys.weights_of(clip_keys.VIT), source)
  convert = ["convert", "clip_vit_b32_hf", str(source), f"--output={out}"]
  heads = ["--vision_heads=4", "--text_heads=4", "--activation=gelu"]
  run(*convert, code=2)
  assert "--vision_heads=... --text_heads" in capsys.readouterr().err
  run(*convert, *heads)
  assert "vision_heads=4, text_heads=4, activation=gelu, as given" in (
    capsys.readouterr().out
  )
  config = {"model_type": "clip", "vision_config": {"num_attention_heads": 8}}
  (source.parent / "config.json").write_text(json.dumps(config))
  run(*convert)
  model = files.read_description(out / "clip.safetensors")["model"]
  assert (model["vision_heads"], model["text_heads"]) == (8, 8)
  assert "activation" not in model  # the default
  config["vision_config"]["num_attention_heads"] = 2
  other = tmp_path / "config.json"
  other.write_text(json.dumps(config))
  run(*convert, str(other))
  model = files.read_description(out / "clip.safetensors")["model"]
  assert model["vision_heads"] == 2
  run("convert", "t5_common_gen", str(source), *heads, code=2)
  assert "takes no --vision_heads" in capsys.readouterr().err
  run("check", "clip_rn50", heads[0], code=2)
  assert "--vision_heads: for `convert`" in capsys.readouterr().err

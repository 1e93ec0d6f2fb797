"""The classifier of a run, for images that come later."""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_world
from PIL import Image
from safetensors.numpy import load_file

from synthjax import classify
from synthjax.adapt import classifier, heads, linear_head
from synthjax.data.real import real_images
from synthjax.encoders import load_encoder
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import score, tune
from synthjax.weights import files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Tunes two arms with two seeds; returns the workdir and its config."""
  workdir = tmp_path_factory.mktemp("run")
  tiny_world.write_images(workdir, seeds=(0, 1), shard_size=64)
  arm = dict(strategy="basic", filter=False)
  config = tiny_world.make_config(
    workdir,
    score={},
    tune=dict(
      arms=(
        dict(name="hard/CE", soft_weight=0.0, **arm),
        dict(name="soft", soft_weight=0.5, **arm),
      ),
      seeds=(0, 1),
      num_epochs=2,
      batch_size=8,
      lr=0.1,
      test=dict(split="test"),
    ),
  )
  score.run(config, str(workdir))
  tune.run(config, str(workdir))
  return workdir, config


@pytest.fixture(scope="module")
def drawings(run):
  """Returns test images of the classes, and their labels."""
  _, config = run
  source = real_images.open_real(
    {"split": "test"}, spaces.load_space(config.space)
  )
  rows = [source[i] for i in range(len(source))]
  return [row["image"] for row in rows], [row["label"] for row in rows]


def test_the_zero_shot_arm_has_the_accuracy_of_the_table(run, drawings):
  workdir, _ = run
  images, labels = drawings
  probs = classifier.load(workdir, arm="zero_shot").classify(images)
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
  results = json.loads((workdir / "tune" / "results.json").read_text())
  # Features on disk are rounded to float16: an image in a few hundred may tip.
  assert (probs.argmax(-1) == labels).mean() == pytest.approx(
    results["zero_shot"]["test"], abs=0.01
  )


@pytest.mark.parametrize("arm", [None, "hard/CE", "soft"])
def test_an_arm_is_the_mean_of_its_seeds(run, drawings, arm):
  workdir, config = run
  images = drawings[0][:5]
  found = classifier.load(workdir, arm=arm).classify(images)
  features = load_encoder(**config.encoder.to_dict()).encode_images(images)
  features /= np.linalg.norm(features, axis=-1, keepdims=True)
  params = load_file(workdir / "tune" / "heads.safetensors")
  logits = [
    features @ params[f"{name}/weight"].T + params[f"{name}/bias"]
    for seed in (0, 1)
    for name in [f"{(arm or 'hard/CE').replace('/', '|')}, seed {seed}"]
  ]
  assert np.abs(logits[0] - logits[1]).max() > 1e-3
  np.testing.assert_allclose(
    found, jax.nn.softmax(np.mean(logits, axis=0)), rtol=1e-3, atol=1e-5
  )


def test_photographs_get_a_word_from_small_networks(run, tmp_path, capsys):
  workdir, _ = run
  known, small = classifier.load(workdir), tmp_path / "small.png"
  Image.new("RGB", (32, 32)).save(small)
  classify.warn_of_large(known, [small])
  assert capsys.readouterr().err == ""
  photo = tmp_path / "photo.jpg"
  Image.new("RGB", (400, 300)).save(photo)
  classify.warn_of_large(known, [small, photo])
  told = capsys.readouterr().err
  assert f"{photo} has 400x300" in told and "emoji" in told
  large = known._replace(network=known.network._replace(image_size=224))
  classify.warn_of_large(large, [photo])
  assert capsys.readouterr().err == ""


def test_the_command_prints_the_likeliest_classes(run, drawings, tmp_path):
  """As lines for people and as JSON, of files and what lies below folders."""
  workdir, _ = run
  paths = [tmp_path / "one.png", tmp_path / "a" / "b" / "two.PNG"]
  for path, image in zip(paths, drawings[0], strict=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="png")
  (tmp_path / "a" / "notes.txt").write_text("no image")
  command = [sys.executable, "-m", "synthjax.classify", str(workdir)]
  command += [str(paths[0]), str(tmp_path / "a"), "--top=2"]
  lines = subprocess.check_output([*command, "--json"], text=True).splitlines()
  found = [json.loads(line) for line in lines]
  assert [each["file"] for each in found] == list(map(str, paths))
  known = classifier.load(workdir)
  probs = known.classify(drawings[0][:2])
  for each, p in zip(found, probs, strict=True):
    best = np.argsort(-p)[:2]
    assert list(each["classes"]) == [known.classes[i] for i in best]
    np.testing.assert_allclose(
      list(each["classes"].values()), p[best], atol=1e-4
    )


def test_bad_input_is_reported(run, tmp_path, capsys):
  workdir, _ = run
  (tmp_path / "empty").mkdir()
  (tmp_path / "bad.png").write_bytes(b"\x89PNG no more")
  for arguments, message in (
    ([tmp_path, tmp_path / "bad.png"], "whose task `tune` is done"),
    (
      [workdir, "none.png", tmp_path / "empty"],
      "there is no none.png; .*empty",
    ),
    ([workdir, ""], "an empty path was given"),
    ([workdir, tmp_path / "bad.png"], "1 of 1 files .*\n.*bad.png cannot be"),
    ([workdir, tmp_path / "bad.png", "--arm=sof"], "did you mean 'soft'"),
  ):
    with pytest.raises(SystemExit) as error:
      classify.main([str(each) for each in arguments])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_linked_folder_is_counted_and_not_followed(tmp_path, capsys):
  Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
  (tmp_path / "up").symlink_to(tmp_path)
  assert classify.find_images([tmp_path]) == [tmp_path / "a.png"]
  assert "1 entry passed over" in capsys.readouterr().err


def test_a_name_of_a_file_commands_no_terminal(run, tmp_path, capsys):
  path = tmp_path / "grün\n\x1b[2J.png"
  Image.new("RGB", (8, 8)).save(path)
  classify.main([str(run[0]), str(path)])
  (line,) = capsys.readouterr().out.splitlines()
  assert "grün\\n\\x1b[2J.png  " in line


@pytest.mark.faults
def test_one_bad_file_does_not_stop_the_others(run, drawings, tmp_path, capsys):
  """It is listed at the end; hidden files are counted, names are any bytes."""
  workdir, _ = run
  names = [b"a.png", b"gr\xfcn.png", b"z.png"]
  for name, image in zip(names, drawings[0], strict=False):
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
      Image.fromarray(image).save(file, "PNG")
  (tmp_path / "m.png").write_bytes(b"<html>")
  (tmp_path / "__MACOSX").mkdir()
  (tmp_path / "__MACOSX" / "a.png").write_bytes(b"")
  (tmp_path / "._a.png").write_bytes(b"")
  for options, expected in (([], 3), (["--json"], 4)):
    with pytest.raises(SystemExit) as error:
      classify.main([str(workdir), str(tmp_path), *options])
    assert error.value.code == 2
    found = capsys.readouterr()
    assert re.search("2 entries passed over", found.err)
    assert re.search(r"1 of 4 files are not classified:\n.*m\.png", found.err)
    lines = found.out.splitlines()
    assert len(lines) == expected
  rows = [json.loads(line) for line in lines]
  assert [os.path.basename(os.fsencode(row["file"])) for row in rows] == [
    *names[:2],
    b"m.png",
    names[2],
  ]
  assert ["classes" in row for row in rows] == [True, True, False, True]
  assert "begins with b'<html>'" in rows[2]["error"]


@pytest.mark.faults
def test_other_weights_of_the_encoder_are_refused(run, tmp_path):
  workdir, config = run
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  path = copy / "tune" / "heads.safetensors"
  heads, about = files.load_params(path)
  other = tiny_world.write_clip(tmp_path / "other.safetensors", seed=1)
  about["encoder"]["config"]["weights"] = other
  files.save_params(path, heads, about)
  with pytest.raises(UserError, match="heads.safetensors: its content has"):
    classifier.load(copy)
  (copy / "tune" / artifacts.MANIFEST).unlink()
  with pytest.raises(UserError, match="put the old weights back"):
    classifier.load(copy)
  del about["arms"]
  files.save_params(path, heads, about)
  with pytest.raises(UserError, match="an older version"):
    classifier.load(copy)


def test_no_class_is_lost_where_two_share_a_name(tmp_path):
  """Older versions wrote ImageNet's two missiles by one name."""
  head = linear_head.Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
  names = ["missile", "owl", "missile"]
  heads.save(tmp_path, head, {}, names, {})
  saved = heads.load(tmp_path / heads.HEADS)
  assert saved.classes == ("missile (0)", "owl", "missile (2)")

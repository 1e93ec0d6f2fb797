"""Gives every reader of files damaged ones, and counts what it says.

  python tests/hostile_files.py COUNT [READER ...]

A reader may return something or raise a UserError. Everything else is a fault:
another exception, ten seconds, or more memory than a file of some kilobytes can
ask for. COUNT files are made for each reader, from good ones, by seeds that are
fixed; each reader runs in a process of its own. Prints a table in JSON.
"""

import json
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NamedTuple

import data_set_layouts
import jax
import made_up_run
import numpy as np
import odd_rows
import scipy.io
import tiny_t5
from flax import serialization
from PIL import Image

from synthjax.data.formats import coco, parquet, png_folder, webdataset
from synthjax.data.generated import drawn_images, scores, shards, tables
from synthjax.data.pipeline import image_files
from synthjax.data.real import archives, cifar, coop_splits
from synthjax.detection import voc
from synthjax.labels import spaces
from synthjax.prompts import sentences, strategies
from synthjax.runtime import artifacts, download, timings
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.tokenizers import bpe, sentence_pieces
from synthjax.training import metrics
from synthjax.training import run as runs
from synthjax.weights import files, read

SECONDS = 10  # that a file may take
MEMORY = 2 << 30  # bytes that a reader may take
TORCH_FILES = pathlib.Path(__file__).parent / "golden" / "torch_files"
FLAX_FILE = TORCH_FILES.parent / "clip_flax" / "flax_model.msgpack"


class Reader(NamedTuple):
  """Makes good files in a folder, and reads them."""

  make: Callable[[pathlib.Path], object]
  read: Callable[[pathlib.Path], object]


def read_table(path, names):
  """Reads a table in each way; the last one checks least of it."""
  tables.read(path, names)
  tables.read(path, names, np.array([1, 17]))
  list(tables.read_batches(path, names))
  tables.shape_of(path)


def rows_of(source):
  """Reads every row of a source."""
  return [source[i] for i in range(min(len(source), 50))]


# --- good files --------------------------------------------------------------


def write(name, content):
  """Returns a function that writes one file."""
  content = content.encode() if isinstance(content, str) else content
  return lambda folder: (folder / name).write_bytes(content)


def copy(path):
  return lambda folder: shutil.copy(path, folder)


def weights(folder):
  params = {"a": {"kernel": np.ones((3, 4), np.float32)}, "b": np.zeros(5)}
  files.save_params(folder / "w.safetensors", params, {"kind": "x", "n": [1]})


def flax_weights(folder):
  tree = {"a": {"k": np.ones((3, 4), np.float32)}, "n": 3, "none": None}
  (folder / "w.msgpack").write_bytes(serialization.to_bytes(tree))


def npz(folder):
  np.savez(folder / "a.npz", ids=np.array(["a", "b"]), p=np.ones(9))
  np.savez_compressed(folder / "b.npz", ids=np.array(["a"]), p=np.zeros(999))


def artifact(folder):
  (folder / "tune").mkdir()
  made_up_run.finish(folder / "tune", {"a.json": {"x": 1}})


def read_artifact(folder):
  artifacts.begin(folder / "tune", {"task": "tune"})
  return artifacts.digest(folder / "tune")


def prompts(folder):
  made_up_run.make_prompts(folder)
  for name in ("manifest.json", "spec.json"):
    (folder / name).unlink()


def read_prompts(folder):
  """Reads prompts whose manifest fits them, as those of another program."""
  target = folder / "as_written"
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir()
  shutil.copy(folder / "prompts.jsonl", target)
  artifacts.begin(target, {})
  artifacts.finish(target, {}, {"prompts.jsonl": 1})
  return list(strategies.open_prompts(target / "prompts.jsonl"))


def images(folder):
  picture = Image.fromarray(made_up_run.picture(0))
  for ending in ("png", "jpg", "gif", "webp", "tiff", "bmp"):
    picture.save(folder / f"a.{ending}")
  picture.convert("P").save(folder / "b.png", transparency=3)
  picture.convert("CMYK").save(folder / "c.jpg")
  Image.fromarray(np.ones((9, 9), np.uint16) * 999).save(folder / "d.png")


def read_images(folder):
  for path in sorted(folder.iterdir()):
    image_files.read_pixels(path)


def exported(format_name):
  return lambda folder: odd_rows.write(format_name, folder)


def vocabularies(folder):
  letters = bpe._byte_letters()
  ids = {piece: i for i, piece in enumerate([*letters, "ab", "<|endoftext|>"])}
  (folder / "encoder.json").write_text(json.dumps(ids))
  (folder / "vocab.bpe").write_text("#version: 0.2\na b\n")


def save_checkpoints(folder):
  manager = runs.open_manager(folder / "c")
  save = runs.save_hook(manager, label="x", every=1, last=9)
  for step in (1, 2):
    save(step, state(), {})
  manager.close()


def state():
  return {"a": jax.numpy.arange(6.0), "step": jax.numpy.zeros((), int)}


def restore(folder):
  manager = runs.open_manager(folder / "c")
  try:
    return runs.restore(manager, state())
  finally:
    manager.close()


def voc_folder(folder):
  top = folder / "VOCdevkit" / "VOC2007"
  for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
    (top / name).mkdir(parents=True)
  (top / "ImageSets/Main/test.txt").write_text("000001\n")
  Image.new("RGB", (50, 40)).save(top / "JPEGImages/000001.jpg")
  sides = "".join(
    f"<{side}>{i}</{side}>"
    for side, i in (("xmin", 3), ("ymin", 4), ("xmax", 30), ("ymax", 25))
  )
  (top / "Annotations/000001.xml").write_text(
    "<annotation><size><width>50</width><height>40</height><depth>3</depth>"
    f"</size><object><name>dog</name><bndbox>{sides}</bndbox><difficult>0"
    "</difficult></object></annotation>"
  )


def coco_folder(folder):
  (folder / "annotations").mkdir()
  (folder / "val").mkdir()
  Image.new("RGB", (8, 6)).save(folder / "val" / "a.png")
  content = {
    "images": [{"id": 9, "file_name": "a.png", "height": 6, "width": 8}],
    "annotations": [
      {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4.5]}
    ],
    "categories": [{"id": 18, "name": "dog"}],
  }
  path = folder / "annotations" / "instances_val.json"
  path.write_text(json.dumps(content))


def birdsnap(folder):
  (folder / "species.txt").write_text("id\tcommon\n1\tdog\n2\tcat\n")
  (folder / "images.txt").write_text("path\tspecies_id\na.jpg\t1\n")
  (folder / "test_images.txt").write_text("path\na.jpg\n")
  (folder / "images").mkdir()
  Image.new("RGB", (8, 6)).save(folder / "images" / "a.jpg")


def cifar_10(folder):
  data_set_layouts.cifar10({"cifar-10-python.tar.gz": folder})


def read_cifar_10(folder):
  cifar._read_split.cache_clear()
  folder, space = folder / "cifar-10-batches-py", spaces.load_space("cifar10")
  rows_of(cifar.open_cifar(folder, "test", space=space))


def cars(folder):
  data_set_layouts.image(folder / "cars_train" / "1.jpg")
  data_set_layouts.image(folder / "cars_train" / "2.jpg")
  rows = np.array(
    [[(1, "1.jpg"), (2, "2.jpg")]], [("class", "O"), ("fname", "O")]
  )
  names = np.array([["dog", "cat"]], object)
  (folder / "devkit").mkdir()
  for name, arrays in (
    ("cars_meta", {"class_names": names}),
    ("cars_train_annos", {"annotations": rows}),
  ):
    path = folder / "devkit" / f"{name}.mat"
    scipy.io.savemat(path, arrays, do_compression=True)


def flowers(folder):
  for name, arrays in (
    ("setid", {"tstid": [2, 1], "trnid": [1], "valid": [2]}),
    ("imagelabels", {"labels": [1, 2]}),
  ):
    path = folder / f"{name}.mat"
    scipy.io.savemat(path, arrays, do_compression=True)  # as published
  for number in (1, 2):
    data_set_layouts.image(folder / "jpg" / f"image_{number:05}.jpg")


def read_flowers(folder):
  names = spaces.load_space("flowers").class_names[:2]
  classes = {name: label for label, name in enumerate(names)}
  rows_of(archives.flowers(folder, "test", classes))


def cub(folder):
  (folder / "images.txt").write_text("1 dog/a.jpg\n2 cat/b.jpg\n")
  (folder / "train_test_split.txt").write_text("1 0\n2 0\n")
  for name in ("dog/a.jpg", "cat/b.jpg"):
    data_set_layouts.image(folder / "images" / name)


def split(folder):
  rows = [["dog/a.jpg", 0, "dog"], ["cat/b.jpg", 1, "cat"]]
  text = json.dumps({"train": rows, "val": rows[:1]})
  (folder / "split.json").write_text(text)


class Datum:
  """Stands for the class of CoOp's pickles, whose name it gets."""

  def __init__(self, name):
    self._impath, self._label, self._classname = f"{name}/0.jpg", 0, name


def draw(folder):
  content = pickle.dumps({"train": [Datum("dog"), Datum("cat")]}, 2)
  name = f"c{Datum.__module__}\nDatum\n".encode()
  content = content.replace(name, b"cdatasets.utils\nDatum\n")
  (folder / "shot_16-seed_1.pkl").write_bytes(content)


def response(folder):
  head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
  head += 'ETag: "a"\r\nContent-Length: 40\r\nConnection: close\r\n\r\n'
  (folder / "response").write_bytes(head.encode() + bytes(40))


def receive(folder):
  """Downloads from a server that sends the bytes of a file."""
  import socket
  import threading

  content = (folder / "response").read_bytes()
  with socket.create_server(("127.0.0.1", 0)) as server:

    def serve():
      while True:
        try:
          connection, _ = server.accept()
        except OSError:
          return
        with connection:
          connection.settimeout(1)
          try:
            connection.recv(65536)
            connection.sendall(content)
          except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
    try:
      download.fetch(url, folder / "got", timeout=0.2, retries=1, pause=0.001)
    finally:
      for path in folder.glob("got*"):
        path.unlink()
      server.shutdown(socket.SHUT_RDWR)
  thread.join()


CLASSES = {"dog": 0, "cat": 1}
SPACE = """\
name: pets
classes:
  - {name: dog, related: [puppy, hound], description: a tame animal}
  - {name: cat, key: n01}
templates: ["a photo of a {}."]
"""
ROWS = '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5}\n'
RECORD = '{"task": "tune", "seconds": 1.5, "outcome": "done"}'

READERS = {
  "own weights": Reader(
    weights, lambda f: files.load_params(f / "w.safetensors")
  ),
  "safetensors": Reader(
    weights, lambda f: read.read_weights(f / "w.safetensors")
  ),
  "msgpack": Reader(flax_weights, lambda f: read.read_weights(f / "w.msgpack")),
  "Flax's CLIP": Reader(
    copy(FLAX_FILE), lambda f: read.read_weights(f / FLAX_FILE.name)
  ),
  "torch zip": Reader(
    copy(TORCH_FILES / "zip.pt"), lambda f: read.read_weights(f / "zip.pt")
  ),
  "torch legacy": Reader(
    copy(TORCH_FILES / "legacy.pth.tar"),
    lambda f: read.read_weights(f / "legacy.pth.tar"),
  ),
  "TorchScript": Reader(
    copy(TORCH_FILES / "scripted.pt"),
    lambda f: read.read_weights(f / "scripted.pt"),
  ),
  "npz": Reader(
    npz,
    lambda f: [scores.read_arrays(p, ("ids", "p")) for p in f.glob("*.npz")],
  ),
  "manifest": Reader(artifact, read_artifact),
  "prompts": Reader(prompts, read_prompts),
  "selection": Reader(
    write(
      "selection.jsonl",
      '{"id": "a-0-0", "strategy": "a", "kept": true}\n' * 4,
    ),
    lambda f: drawn_images.read_selection(
      f / "selection.jsonl", ("id", "kept")
    ),
  ),
  "table": Reader(
    lambda f: tables.write(
      f / "a.parquet",
      {"id": "string", "kind": "category"},
      [{"id": ["a", "b"] * 9, "kind": ["a"] * 18}],
    ),
    lambda f: read_table(f / "a.parquet", ("id", "kind")),
  ),
  "shards": Reader(
    lambda f: made_up_run.make_images(f),
    lambda f: rows_of(shards.open_shards(f)),
  ),
  "checkpoints": Reader(save_checkpoints, restore),
  "metrics": Reader(
    write("m.jsonl", ROWS), lambda f: metrics.read_rows(f / "m.jsonl")
  ),
  "timings": Reader(
    lambda f: (
      (f / "log/tasks").mkdir(parents=True),
      write("log/tasks/20260101T000000-tune-0123abcd.json", RECORD)(f),
    ),
    timings.read,
  ),
  "JSON": Reader(
    write("a.json", '{"a": [1, 2.5, "x"], "b": {"c": null}}'),
    lambda f: read_json(f / "a.json", dict),
  ),
  "label space, YAML": Reader(
    write("pets.yaml", SPACE), lambda f: spaces.load_space(str(f / "pets.yaml"))
  ),
  "label space, JSON": Reader(
    write(
      "pets.json", '{"classes": [{"name": "dog"}, "cat"], "prompts": ["{}"]}'
    ),
    lambda f: spaces.load_space(str(f / "pets.json")),
  ),
  "blocklist": Reader(
    write("words.txt", "one\ntwo # why\n"),
    lambda f: sentences.read_blocklist(str(f / "words.txt")),
  ),
  "tables": Reader(
    birdsnap, lambda f: rows_of(archives.birdsnap(f, "test", CLASSES))
  ),
  "CUB": Reader(cub, lambda f: rows_of(archives.cub(f, "test", CLASSES))),
  "Cars": Reader(cars, lambda f: rows_of(archives.cars(f, "train", CLASSES))),
  "Flowers": Reader(flowers, read_flowers),
  "CIFAR": Reader(cifar_10, read_cifar_10),
  "CoOp's split": Reader(
    split, lambda f: coop_splits.read_split(f / "split.json", "train")
  ),
  "CoOp's draw": Reader(
    draw, lambda f: coop_splits.read_split(f / "shot_16-seed_1.pkl", "train")
  ),
  "images": Reader(images, read_images),
  "folder": Reader(
    exported("folder"),
    lambda f: rows_of(
      png_folder.open_folder(f / "train", space=odd_rows.SPACE)
    ),
  ),
  "parquet": Reader(
    exported("parquet"),
    lambda f: rows_of(parquet.open_parquet(f, space=odd_rows.SPACE)),
  ),
  "webdataset": Reader(
    exported("webdataset"),
    lambda f: rows_of(webdataset.open_webdataset(f, space=odd_rows.SPACE)),
  ),
  "VOC": Reader(
    voc_folder, lambda f: rows_of(voc.open_voc(f, (("2007", "test"),), CLASSES))
  ),
  "COCO": Reader(
    coco_folder, lambda f: rows_of(coco.open_coco(f, "val", CLASSES))
  ),
  "tokenizer.json": Reader(
    copy(bpe.EMBEDDED), lambda f: bpe.load.__wrapped__(f / bpe.EMBEDDED.name)
  ),
  "vocabularies": Reader(
    vocabularies, lambda f: bpe.glide_bpe(f / "encoder.json", f / "vocab.bpe")
  ),
  "sentence pieces": Reader(
    lambda f: tiny_t5.write_tokenizer(f / "spiece.model"),
    lambda f: sentence_pieces.load.__wrapped__(f / "spiece.model"),
  ),
  "download": Reader(response, receive),
}


# --- damage -------------------------------------------------------------------

WORDS = [  # numbers in bytes, and what no text expects
  *(b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 4),
  *(b"\xff" * 8, b"\0\0\0\x10\0\0\0\0", b"\0\0\0\0\0\0\0\x80", b"\0"),
  *(b"null", b"[]", b"{}", b"-1", b"0.5", b"1e999", b"NaN", b"true"),
  *(b"99999999999999999999", b'"\xff"', b'"\\ud800"', b"[" * 50_000),
  *(b'{"a":' * 50_000, b"\xef\xbb\xbf", b"&a", b"*a", b"..", b"<!DOCTYPE x>"),
]


def damage(data: bytes, draws: random.Random) -> bytes:
  """Returns the content of a file, damaged in one of a dozen ways."""
  size, at = len(data), draws.randrange(len(data) + 1)
  length = draws.choice([1, 2, 4, 16, 256])
  other = draws.randrange(size + 1)
  piece = data[other : other + length]
  word = draws.choice(WORDS)
  match draws.randrange(12):
    case 0 | 1 | 2 if size:  # one bit
      flipped = bytearray(data)
      flipped[at % size] ^= 1 << draws.randrange(8)
      return bytes(flipped)
    case 3 if size:  # some bytes
      return data[:at] + draws.randbytes(length) + data[at + length :]
    case 4:
      return data[:at]
    case 5:
      return data[at:]
    case 6:
      return data[:at] + data[at + length :]
    case 7:
      return data[:at] + piece + data[at:]
    case 8:
      return data[:at] + piece + data[at + length :]
    case 9:
      return data[:at] + word + data[at + len(word) :]
    case 10:
      return data[:at] + word + data[at:]
    case _:  # a number or a text becomes something else
      for start in range(at, size):
        if data[start : start + 1].isalnum():
          end = start
          while data[end : end + 1].isalnum():
            end += 1
          return data[:start] + word + data[end:]
      return b""


class TooLong(BaseException):
  """A file took more than SECONDS."""


def _too_long(signum, frame):
  raise TooLong


def try_reader(name: str, count: int) -> dict:
  """Damages one file of a reader at a time; returns counts and faults."""
  reader, outcomes, faults = READERS[name], {"refused": 0, "read": 0}, []
  signal.signal(signal.SIGALRM, _too_long)
  with tempfile.TemporaryDirectory() as home:
    whole, folder = pathlib.Path(home) / "whole", pathlib.Path(home) / "damaged"
    whole.mkdir()
    reader.make(whole)
    shutil.copytree(whole, folder)
    reader.read(folder)  # the good files are read
    paths = sorted(
      p.relative_to(whole) for p in whole.rglob("*") if p.is_file()
    )
    for seed in range(count):
      draws = random.Random(f"{name} {seed}")
      shutil.rmtree(folder)
      shutil.copytree(whole, folder)
      path = draws.choice(paths)
      content = damage((whole / path).read_bytes(), draws)
      (folder / path).write_bytes(content)
      signal.alarm(SECONDS)
      try:
        reader.read(folder)
        outcomes["read"] += 1
      except UserError:
        outcomes["refused"] += 1
      except (Exception, TooLong) as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f for f in place if "synthjax" in f.filename][-1:] or place
        where = f"{ours[-1].filename}:{ours[-1].lineno}"
        faults.append(f"seed {seed}, {path}: {error!r:.200} at {where}")
      finally:
        signal.alarm(0)
  return outcomes | {"faults": faults}


def in_a_process(run: Callable[[], dict]) -> dict:
  """Returns what a function returns in a process of bounded memory."""
  output, into = os.pipe()
  if not (process := os.fork()):
    os.close(output)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    code = 1
    try:
      resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
      before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      found = run()
      after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      found["megabytes"] = round((after - before) / 1024)
      with os.fdopen(into, "w") as file:
        json.dump(found, file)
      code = 0
    except BaseException:
      with os.fdopen(into, "w") as file:
        json.dump({"faults": [traceback.format_exc()]}, file)
    finally:
      os._exit(code)
  os.close(into)
  with os.fdopen(output) as file:
    text = file.read()
  _, status = os.waitpid(process, 0)
  return json.loads(text or json.dumps({"faults": [f"ended by {status}"]}))


def main() -> None:
  count, names = int(sys.argv[1]), sys.argv[2:] or READERS
  table = {}
  for name in names:
    table[name] = in_a_process(lambda name=name: try_reader(name, count))
    print(name, json.dumps(table[name])[:2000], file=sys.stderr, flush=True)
  print(json.dumps(table))
  sys.exit(any(found["faults"] for found in table.values()))


if __name__ == "__main__":
  main()

"""Small copies of the data sets, in the layouts of their publishers' archives.

LAYOUTS is data set -> function that writes what the archives hold; `write`
packs it as published, or leaves it as folders.
"""

import io
import json
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image

from synthjax.data.real import publishers
from synthjax.labels import spaces


def image(path, number=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  colour = (number % 256, number // 256, 7)
  Image.new("RGB", (6, 4), colour).save(path, "JPEG")


def text(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{line}\n" for line in lines))


def keys_of(space):
  return [c.key or c.name for c in spaces.load_space(space).classes]


def coop(path, images, names, ending="jpg"):
  """Writes a split file: image 0 of each class, 1 and 2."""
  rows = {
    split: [
      [images(i, name, number), len(names) - 1 - i, name]
      for i, name in enumerate(names)
    ]
    for number, split in enumerate(("train", "val", "test"))
  }
  path.write_text(json.dumps(rows))


class Python2Pickler(pickle._Pickler):
  """Writes texts and bytes as Python 2 did, whose pickles CIFAR's are."""

  dispatch = dict(pickle._Pickler.dispatch)

  def save_string(self, obj):
    content = obj.encode("latin-1") if isinstance(obj, str) else obj
    self.write(b"T" + len(content).to_bytes(4, "little") + content)

  dispatch[str] = dispatch[bytes] = save_string


def pickled(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  file = io.BytesIO()
  Python2Pickler(file, protocol=2).dump(value)
  content = file.getvalue().replace(b"numpy._core", b"numpy.core")
  path.write_bytes(content)


def pixels(labels):
  """Images whose red is the label, green 1 and blue 2."""
  rows = np.repeat(np.array([[0, 1, 2]], np.uint8), len(labels), 0)
  rows[:, 0] = labels
  return np.repeat(rows, 1024, axis=1)


# --- what the archives hold ---------------------------------------------------


def cifar10(to):
  folder, names = to["cifar-10-python.tar.gz"] / "cifar-10-batches-py", "label"
  labels = list(range(10))
  for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
    batch = {"batch_label": name, "labels": labels, "data": pixels(labels)}
    pickled(folder / name, batch | {"filenames": ["a.png"] * 10})
  names = keys_of("cifar10")
  pickled(folder / "batches.meta", {"num_vis": 3072, "label_names": names})


def cifar100(to):
  folder = to["cifar-100-python.tar.gz"] / "cifar-100-python"
  labels = list(range(100))
  for name in ("train", "test"):
    batch = {"fine_labels": labels, "coarse_labels": [0] * 100}
    pickled(folder / name, batch | {"data": pixels(labels)})
  names = [name.replace(" ", "_") for name in keys_of("cifar100")]
  pickled(folder / "meta", {"fine_label_names": names})


def caltech101(to):
  inside = to["caltech-101.zip"] / "caltech-101"
  names = keys_of("caltech101")
  for name in (*names, "BACKGROUND_Google", "Faces_easy"):
    for i in range(3):
      image(
        inside
        / "101_ObjectCategories.tar.gz"
        / "101_ObjectCategories"
        / name
        / f"image_{i:04}.jpg"
      )
  tar(inside / "101_ObjectCategories.tar.gz", "w:gz")
  coop(
    to["split_zhou_Caltech101.json"],
    lambda i, name, n: f"{name}/image_{n:04}.jpg",
    names,
  )


def caltech256(to):
  folder = to["256_ObjectCategories.tar"] / "256_ObjectCategories"
  for name in keys_of("caltech256"):
    for i in range(61):
      path = folder / name / f"{name[:3]}_{i + 1:04}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b"")  # 15,000 of them; no image is read here


def imagenet(to):
  keys, kit = keys_of("imagenet"), to["ILSVRC2012_devkit_t12.tar.gz"]
  train, val = to["ILSVRC2012_img_train.tar"], to["ILSVRC2012_img_val.tar"]
  for i, key in enumerate(keys):
    image(train / f"{key}.tar" / f"{key}_1.JPEG", i)
    tar(train / f"{key}.tar", "w")
    image(val / f"ILSVRC2012_val_{i + 1:08}.JPEG", i)
  data = kit / "ILSVRC2012_devkit_t12" / "data"
  ids = list(range(1000, 0, -1))  # of theirs
  text(data / "ILSVRC2012_validation_ground_truth.txt", *ids)
  synsets = np.zeros((1001, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O")])
  for row, (number, key) in enumerate(zip(ids, keys, strict=True)):
    synsets[row, 0] = (number, key)
  synsets[1000, 0] = (1001, "n00001740")  # inner nodes of the tree follow
  scipy.io.savemat(data / "meta.mat", {"synsets": synsets})


def sun397(to):
  keys = keys_of("sun397")
  for key in keys:
    for i in range(3):
      image(to["SUN397.tar.gz"] / f"SUN397{key}" / f"sun_{i}.jpg")
  lists = to["Partitions.zip"]
  text(lists / "Training_01.txt", *(f"{key}/sun_0.jpg" for key in keys))
  text(lists / "Testing_01.txt", *(f"{key}/sun_2.jpg" for key in keys))
  names = spaces.load_space("sun397").class_names
  coop(
    to["split_zhou_SUN397.json"],
    lambda i, name, n: f"{keys[i][1:]}/sun_{n}.jpg",
    names,
  )


def aircraft(to):
  data = to["fgvc-aircraft-2013b.tar.gz"] / "fgvc-aircraft-2013b" / "data"
  for number, split in enumerate(("train", "val", "test")):
    rows = [
      (f"{number}{i:06}", name) for i, name in enumerate(keys_of("aircraft"))
    ]
    text(data / f"images_variant_{split}.txt", *(" ".join(r) for r in rows))
    for name, _ in rows:
      image(data / "images" / f"{name}.jpg")


def birdsnap(to):
  folder = to["birdsnap.tgz"] / "birdsnap"
  names = keys_of("birdsnap")
  rows = [f"{i}\t{name}\tx\t{i}" for i, name in enumerate(names, start=1)]
  text(folder / "species.txt", "id\tcommon\tscientific\tdir", *rows)
  files = [(f"{i}/{n}.jpg", i) for i in range(1, 501) for n in range(3)]
  rows = [f"x\tx\t{file}\t{i}" for file, i in files]
  text(folder / "images.txt", "url\tmd5\tpath\tspecies_id", *rows)
  text(folder / "test_images.txt", "path", *(f for f, _ in files[2::3]))
  for file, _ in files[1:]:  # an address is dead
    image(folder / "download" / "images" / file)


def cars(to):
  keys = keys_of("cars")
  listed = lambda split: [
    (f"{i:05}.jpg", i + 1) for i in range(len(keys)) if split
  ]
  for split, file in (
    ("train", to["car_devkit.tgz"] / "devkit" / "cars_train_annos.mat"),
    ("test", to["cars_test_annos_withlabels.mat"]),
  ):
    rows = np.zeros((1, len(keys)), [("class", "O"), ("fname", "O")])
    for i, (name, number) in enumerate(listed(split)):
      rows[0, i] = (np.uint8(number), name)
      image(to[f"cars_{split}.tgz"] / f"cars_{split}" / name)
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"annotations": rows})
  meta = np.array(keys, object).reshape(1, -1)
  kit = to["car_devkit.tgz"] / "devkit" / "cars_meta.mat"
  scipy.io.savemat(kit, {"class_names": meta})
  names = spaces.load_space("cars").class_names
  coop(
    to["split_zhou_StanfordCars.json"],
    lambda i, name, n: f"cars_{'test' if n == 2 else 'train'}/{i:05}.jpg",
    names,
  )


def cub(to):
  folder = to["CUB_200_2011.tgz"] / "CUB_200_2011"
  files = [f"{key}/{n}.jpg" for key in keys_of("cub") for n in range(2)]
  text(folder / "images.txt", *(f"{i} {f}" for i, f in enumerate(files)))
  text(
    folder / "train_test_split.txt",
    *(f"{i} {i % 2}" for i in range(len(files))),
  )
  for file in files:
    image(folder / "images" / file)


def flowers(to):
  names = spaces.load_space("flowers").class_names
  numbers = np.arange(1, 3 * 102 + 1).reshape(3, 1, 102)
  for number in range(1, 307):
    image(to["102flowers.tgz"] / "jpg" / f"image_{number:05}.jpg")
  scipy.io.savemat(
    to["imagelabels.mat"], {"labels": np.tile(np.arange(1, 103), 3)[None]}
  )
  splits = dict(zip(("trnid", "valid", "tstid"), numbers, strict=True))
  scipy.io.savemat(to["setid.mat"], splits)
  coop(
    to["split_zhou_OxfordFlowers.json"],
    lambda i, name, n: f"image_{n * 102 + i + 1:05}.jpg",
    names,
  )


def food(to):
  folder, keys = to["food-101.tar.gz"] / "food-101", keys_of("food")
  for number, split in enumerate(("train", "val", "test")):
    if split != "val":
      rows = (f"{key}/{number}" for key in keys)
      text(folder / "meta" / f"{split}.txt", *rows)
    for key in keys:
      image(folder / "images" / key / f"{number}.jpg")
  coop(
    to["split_zhou_Food101.json"], lambda i, name, n: f"{name}/{n}.jpg", keys
  )


def pets(to):
  keys = keys_of("pets")
  folder = to["annotations.tar.gz"] / "annotations"
  for number, split in enumerate(("trainval", "val", "test")):
    rows = [f"{key}_{number} 1 1 1" for key in keys]
    text(folder / f"{split}.txt", *rows)
    for key in keys:
      image(to["images.tar.gz"] / "images" / f"{key}_{number}.jpg")
  coop(
    to["split_zhou_OxfordPets.json"], lambda i, name, n: f"{name}_{n}.jpg", keys
  )


def dtd(to):
  folder, keys = to["dtd-r1.0.1.tar.gz"] / "dtd", keys_of("dtd")
  for number, split in enumerate(("train", "val", "test")):
    rows = [f"{key}/{key}_{number}.jpg" for key in keys]
    text(folder / "labels" / f"{split}1.txt", *rows)
    for row in rows:
      image(folder / "images" / row)
  coop(
    to["split_zhou_DescribableTextures.json"],
    lambda i, name, n: f"{name}/{name}_{n}.jpg",
    keys,
  )


def eurosat(to):
  keys = keys_of("eurosat")
  for key in keys:
    for i in range(3):
      image(to["EuroSAT.zip"] / "2750" / key / f"{key}_{i}.jpg")
  coop(
    to["split_zhou_EuroSAT.json"],
    lambda i, name, n: f"{keys[i]}/{keys[i]}_{n}.jpg",
    spaces.load_space("eurosat").class_names,
  )


def imagenet_sketch(to):
  for key in keys_of("imagenet_sketch"):
    image(to["ImageNet-Sketch.zip"] / "sketch" / key / "sketch_0.JPEG")


def imagenet_r(to):
  folder = to["imagenet-r.tar"] / "imagenet-r"
  text(folder / "README.txt", "no class")
  for key in keys_of("imagenet_r"):
    image(folder / key / "art_0.jpg")


NOTE = """<annotation><size><width>6</width><height>4</height></size>
<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax>
<ymax>3</ymax></bndbox></object></annotation>"""


def voc(to):
  for name, year, split in (
    ("VOCtrainval_06-Nov-2007.tar", "2007", "trainval"),
    ("VOCtest_06-Nov-2007.tar", "2007", "test"),
    ("VOCtrainval_11-May-2012.tar", "2012", "trainval"),
  ):
    folder = to[name] / "VOCdevkit" / f"VOC{year}"
    keys = keys_of("voc")
    ids = [f"{len(year + split)}{i:05}" for i in range(len(keys))]
    text(folder / "ImageSets" / "Main" / f"{split}.txt", *ids)
    for number, key in zip(ids, keys, strict=True):
      image(folder / "JPEGImages" / f"{number}.jpg")
      text(folder / "Annotations" / f"{number}.xml", NOTE.format(key))


LAYOUTS = {
  f.__name__: f
  for f in (
    *(cifar10, cifar100, caltech101, caltech256, imagenet, sun397, aircraft),
    *(birdsnap, cars, cub, flowers, food, pets, dtd, eurosat, imagenet_sketch),
    *(imagenet_r, voc),
  )
}


# --- packing ------------------------------------------------------------------


def tar(folder, mode):
  """Puts a tar file in the place of a folder."""
  content = folder.with_name(f"{folder.name}.content")
  folder.rename(content)
  with tarfile.open(folder, mode) as archive:
    for path in sorted(content.iterdir()):
      archive.add(path, path.name)
  shutil.rmtree(content)


def zip_(folder):
  content = folder.with_name(f"{folder.name}.content")
  folder.rename(content)
  with zipfile.ZipFile(folder, "w") as archive:
    for path in sorted(content.rglob("*")):
      archive.write(path, path.relative_to(content))
  shutil.rmtree(content)


def write(name: str, folder: pathlib.Path) -> list[str]:
  """Writes the archives of a data set as published, and returns their names."""
  files = [archive.file.name for archive in publishers.published()[name].files]
  folder.mkdir(parents=True, exist_ok=True)
  LAYOUTS[name]({file: folder / file for file in files})
  for file in files:
    if (folder / file).is_dir():
      if file.endswith(".zip"):
        zip_(folder / file)
      else:
        tar(folder / file, "w" if file.endswith(".tar") else "w:gz")
  return files

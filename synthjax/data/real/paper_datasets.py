"""The 17 data sets that the paper measures recognition on, and their splits.

BENCHMARKS is data set -> splits by name; the first are those that the paper
most likely used (from sizes and zero-shot accuracies, as it names none). Sizes
are checked when a split is opened; None is a size that is not known.

publishers.yaml says where the files lie: in CoOp's folders, such as
eurosat/2750 and eurosat/split_zhou_EuroSAT.json, or as archives unpack. Their
readers, and how to add one, are in `archives`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Part(NamedTuple):
  """One split: its publisher's files, a copy of TFDS, or both."""

  size: int | None  # rows; None if not known
  # For `real_images.open_real`, with paths below the set's folder.
  files: dict[str, Any] | None = None
  needs: tuple[str, ...] = ()  # what the files are: paths below that folder
  helps: tuple[str, ...] = ()  # what some layouts need besides
  tfds: dict[str, Any] | None = None  # the same for TFDS


class Splits(NamedTuple):
  """Splits of one data set that belong together."""

  space: str  # another with the same classes under other names serves as well
  test: Part
  train: Part | None = None
  validation: Part | None = None
  note: str = ""  # why the size of a copy may differ
  may_lack: bool = False  # a smaller size gives a warning, not an error


def _tfds(name: str, split: str, **more: Any) -> dict[str, Any]:
  """A split of TFDS, whose labels are in our order."""
  return dict(kind="tfds", name=name, split=split) | more


def _named(name: str, split: str, **more: Any) -> dict[str, Any]:
  """A split of TFDS whose labels are matched by name."""
  return _tfds(name, split, by_name=True, **more)


def _files(
  kind: str, split: str | None, *needs: str, path: str = "", **more: Any
) -> dict[str, Any]:
  """Fields of a Part: a split of the publisher's files.

  Args:
    kind: of a source.
    split: of it.
    *needs: see Part; the set's folder is where the first one lies.
    path: below that folder.
    **more: fields of the source.
  """
  block = dict(kind=kind, path=path) | more
  if split:
    block["split"] = split
  return {"files": block, "needs": needs}


def _coop(
  space: str,
  images: str,
  name: str,
  sizes: tuple[int, int, int],
  folders: tuple[str, ...] = (),
) -> Splits:
  """The splits of CoOp.

  Args:
    space: of the set.
    images: the folder of the images.
    name: in that of the split file.
    sizes: of train, validation and test.
    folders: those of the images, if they are several in `images`.
  """
  file = f"split_zhou_{name}.json"
  needs = (*(folders or (images,)), file)
  train, validation, test = (
    Part(size, **_files("coop", split, *needs, path=images, split_file=file))
    for split, size in zip(("train", "validation", "test"), sizes, strict=True)
  )
  return Splits(space, test, train, validation)


def _cifar(name: str, folder: str) -> dict[str, Splits]:
  def part(split, size, first=0, last=None):
    rows = {k: v for k, v in dict(first=first, last=last).items() if v}
    within = f"[{first or ''}:{last or ''}]" if rows else ""
    files = _files("cifar", split, folder, path=folder, **rows)
    return Part(size, **files, tfds=_tfds(name, split + within))

  test = part("test", 10_000)
  return {
    "official": Splits(name, test, part("train", 50_000)),
    "held_out": Splits(
      name,
      test,
      part("train", 45_000, last=45_000),
      part("train", 5_000, first=45_000),
    ),
  }


def _caltech101(space: str, *left_out: str) -> Splits:
  """TFDS's own random split, less some labels; it has the background."""
  parts = (
    Part(None, tfds=_named("caltech101", split, left_out=left_out))
    for split in ("test", "train")
  )
  return Splits(space, *parts)


def _caltech256(split: str, size: int) -> Part:
  folder = "256_ObjectCategories"
  return Part(size, **_files("caltech256", split, folder, path=folder))


def _imagenet(split: str, size: int) -> Part:
  folder = "val" if split == "validation" else split
  files = _files("imagenet", split, folder)
  tfds = _named("imagenet2012", split)
  return Part(size, **files, helps=("ILSVRC2012_devkit_t12",), tfds=tfds)


def _aircraft(split: str, size: int) -> Part:
  # The archive has the lists of all splits.
  return Part(size, **_files("aircraft", split, "images_variant_test.txt"))


def _sun(split: str, size: int) -> Part:
  # The config "tfds" has other splits.
  tfds = _named("sun397/standard-part1-120k", split)
  files = _files("sun397", split, "SUN397")
  return Part(size, **files, helps=("Training_01.txt",), tfds=tfds)


def _birdsnap(split: str, size: int) -> Part:
  return Part(size, **_files("birdsnap", split, "species.txt"))


def _cars(split: str, size: int) -> Part:
  needs = (f"cars_{split}", "devkit")
  return Part(
    size, **_files("cars", split, *needs), tfds=_named("cars196", split)
  )


def _cub(split: str, size: int) -> Part:
  # TFDS has numbers for names, in the order of classes.txt.
  folder = "CUB_200_2011"
  return Part(
    size,
    **_files("cub", split, folder, path=folder),
    tfds=_tfds("caltech_birds2011", split),
  )


def _flowers(split: str, size: int) -> Part:
  files = _files("flowers", split, "jpg", "setid.mat", "imagelabels.mat")
  return Part(size, **files, tfds=_named("oxford_flowers102", split))


def _food(split: str, size: int) -> Part:
  # TFDS calls the official test "validation".
  tfds = _named("food101", "validation" if split == "test" else split)
  return Part(size, **_files("food101", split, "images", "meta"), tfds=tfds)


def _pets(split: str, size: int) -> Part:
  files = _files("pets", split, "images", "annotations")
  return Part(size, **files, tfds=_named("oxford_iiit_pet", split))


def _dtd(split: str, size: int) -> Part:
  files = _files("dtd", split, "images", "labels")
  return Part(size, **files, tfds=_named("dtd", split))


def _folder(first_synset: str, size: int, tfds: str) -> Part:
  # The set's folder is the one that holds those of the synsets.
  return Part(
    size,
    **_files("class_folders", None, first_synset),
    tfds=_named(tfds, "test"),
  )


# Built-in label spaces that are no name of a data set -> the data set, and its
# splits where those of the space are not the first.
SPACES: Mapping[str, tuple[str, str | None]] = {
  "caltech101_101": ("caltech101", "tfds_101"),
  "caltech101_102": ("caltech101", "tfds_102"),
  "eurosat_clip": ("eurosat", None),
  "eurosat_released": ("eurosat", None),
}

BENCHMARKS: Mapping[str, Mapping[str, Splits]] = {
  "cifar10": _cifar("cifar10", "cifar-10-batches-py"),
  "cifar100": _cifar("cifar100", "cifar-100-python"),
  "caltech101": {
    "coop": _coop(
      "caltech101", "101_ObjectCategories", "Caltech101", (4128, 1649, 2465)
    ),
    "tfds": _caltech101("caltech101", "background_google", "faces_easy"),
    "tfds_101": _caltech101("caltech101_101", "background_google"),
    "tfds_102": _caltech101("caltech101_102"),
  },
  "caltech256": {
    "first60": Splits(
      "caltech256", _caltech256("test", 15_187), _caltech256("train", 15_420)
    ),
  },
  # Older configs name the publisher's folders.
  "imagenet": dict.fromkeys(
    ("official", "folders"),
    Splits(
      "imagenet",
      _imagenet("validation", 50_000),
      _imagenet("train", 1_281_167),
    ),
  ),
  "sun397": {
    "coop": _coop("sun397", "SUN397", "SUN397", (15_880, 3_970, 19_850)),
    "official": Splits(
      "sun397",
      _sun("test", 19_850),
      _sun("train", 19_850),
      note="TFDS's images are at most 120,000 pixels, compressed anew",
    ),
  },
  "aircraft": {
    "official": Splits(
      "aircraft",
      _aircraft("test", 3333),
      _aircraft("train", 3334),
      _aircraft("validation", 3333),
    ),
    # The authors' release points to the validation split.
    "released": Splits(
      "aircraft", _aircraft("validation", 3333), _aircraft("train", 3334)
    ),
  },
  "birdsnap": {
    "official": Splits(
      "birdsnap",
      _birdsnap("test", 2443),
      _birdsnap("train", 47_386),
      note="Many addresses of its images are dead",
      may_lack=True,
    ),
  },
  "cars": {
    "coop": _coop(
      *("cars", "", "StanfordCars", (6509, 1635, 8041)),
      folders=("cars_train", "cars_test"),
    ),
    "official": Splits("cars", _cars("test", 8041), _cars("train", 8144)),
  },
  "cub": {"official": Splits("cub", _cub("test", 5794), _cub("train", 5994))},
  "flowers": {
    "coop": _coop("flowers", "jpg", "OxfordFlowers", (4093, 1633, 2463)),
    "official": Splits(
      "flowers",
      _flowers("test", 6149),
      _flowers("train", 1020),
      _flowers("validation", 1020),
    ),
  },
  "food": {
    "official": Splits("food", _food("test", 25_250), _food("train", 75_750)),
    "coop": _coop("food", "images", "Food101", (50_500, 20_200, 30_300)),
  },
  "pets": {
    "official": Splits("pets", _pets("test", 3669), _pets("train", 3680)),
    "coop": _coop("pets", "images", "OxfordPets", (2944, 736, 3669)),
  },
  "dtd": {
    "coop": _coop("dtd", "images", "DescribableTextures", (2820, 1128, 1692)),
    # The first of ten folds.
    "official": Splits(
      "dtd", _dtd("test", 1880), _dtd("train", 1880), _dtd("validation", 1880)
    ),
  },
  "eurosat": {
    "coop": _coop("eurosat", "2750", "EuroSAT", (13_500, 5_400, 8_100)),
    # As large as CoOp's, of other images: TFDS has one split of 27,000.
    "tfds": Splits(
      "eurosat",
      Part(8_100, tfds=_named("eurosat/rgb", "train[18900:]")),
      Part(13_500, tfds=_named("eurosat/rgb", "train[:13500]")),
      Part(5_400, tfds=_named("eurosat/rgb", "train[13500:18900]")),
    ),
  },
  "imagenet_sketch": dict.fromkeys(
    ("official", "folders"),
    Splits("imagenet_sketch", _folder("n01440764", 50_889, "imagenet_sketch")),
  ),
  # TFDS numbers its 200 classes as ImageNet's 1,000.
  "imagenet_r": dict.fromkeys(
    ("official", "folders"),
    Splits("imagenet_r", _folder("n01443537", 30_000, "imagenet_r")),
  ),
}

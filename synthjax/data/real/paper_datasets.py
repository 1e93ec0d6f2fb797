"""The 17 data sets that the paper measures recognition on, and their splits.

BENCHMARKS is data set -> splits by name; the first are those that the paper
most likely used (from sizes and zero-shot accuracies, as it names none). Sizes
are checked when a split is opened; None is a size that is not known.

Folders below `data_dir` are CoOp's: caltech-101/101_ObjectCategories,
eurosat/2750, eurosat/split_zhou_EuroSAT.json, ...
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Part(NamedTuple):
  """One split: how to open it, with paths below the user's folder."""

  block: dict[str, Any]  # for `real_images.open_real`
  size: int | None  # rows; None if not known


class Splits(NamedTuple):
  """Splits of one data set that belong together."""

  space: str  # another with the same classes under other names serves as well
  test: Part
  train: Part | None = None
  validation: Part | None = None
  note: str = ""  # why the size of a copy may differ
  may_lack: bool = False  # a smaller size gives a warning, not an error


def _tfds(name: str, split: str, size: int | None, **more: Any) -> Part:
  """A split of TFDS, whose labels are in our order."""
  return Part(dict(kind="tfds", name=name, split=split) | more, size)


def _named(name: str, split: str, size: int | None, **more: Any) -> Part:
  """A split of TFDS whose labels are matched by name."""
  return _tfds(name, split, size, by_name=True, **more)


def _files(kind: str, path: str, size: int, **more: Any) -> Part:
  """A split of the authors' files."""
  return Part(dict(kind=kind, path=path) | more, size)


def _coop(
  space: str, images: str, name: str, sizes: tuple[int, int, int]
) -> Splits:
  """The splits of CoOp; sizes of train, validation and test."""
  folder = images.partition("/")[0]
  file = f"{folder}/split_zhou_{name}.json"
  train, validation, test = (
    _files("coop", images, size, split_file=file, split=split)
    for split, size in zip(("train", "validation", "test"), sizes, strict=True)
  )
  return Splits(space, test, train, validation)


def _cifar(name: str) -> dict[str, Splits]:
  test = _tfds(name, "test", 10_000)
  held_out = _tfds(name, "train[45000:]", 5_000)
  return {
    "official": Splits(name, test, _tfds(name, "train", 50_000)),
    "held_out": Splits(
      name, test, _tfds(name, "train[:45000]", 45_000), held_out
    ),
  }


def _caltech101(space: str, *left_out: str) -> Splits:
  """TFDS's own random split, less some labels; it has the background."""
  parts = (
    _named("caltech101", split, None, left_out=left_out)
    for split in ("test", "train")
  )
  return Splits(space, *parts)


def _aircraft(split: str, size: int) -> Part:
  return _files("aircraft", "fgvc_aircraft", size, split=split)


# Built-in label spaces that are no name of a data set -> the data set, and its
# splits where those of the space are not the first.
SPACES: Mapping[str, tuple[str, str | None]] = {
  "caltech101_101": ("caltech101", "tfds_101"),
  "caltech101_102": ("caltech101", "tfds_102"),
  "eurosat_clip": ("eurosat", None),
  "eurosat_released": ("eurosat", None),
}

_SUN = "sun397/standard-part1-120k"  # the config "tfds" has other splits
_CALTECH101 = "caltech-101/101_ObjectCategories"

BENCHMARKS: Mapping[str, Mapping[str, Splits]] = {
  "cifar10": _cifar("cifar10"),
  "cifar100": _cifar("cifar100"),
  "caltech101": {
    "coop": _coop("caltech101", _CALTECH101, "Caltech101", (4128, 1649, 2465)),
    "tfds": _caltech101("caltech101", "background_google", "faces_easy"),
    "tfds_101": _caltech101("caltech101_101", "background_google"),
    "tfds_102": _caltech101("caltech101_102"),
  },
  "caltech256": {
    "first60": Splits(
      "caltech256",
      _files("caltech256", "caltech256", 15_187, split="test"),
      _files("caltech256", "caltech256", 15_420, split="train"),
    ),
  },
  "imagenet": {
    "official": Splits(
      "imagenet",
      _named("imagenet2012", "validation", 50_000),
      _named("imagenet2012", "train", 1_281_167),
    ),
    "folders": Splits(
      "imagenet",
      _files("folder", "imagenet/images/val", 50_000),
      _files("folder", "imagenet/images/train", 1_281_167),
    ),
  },
  "sun397": {
    "coop": _coop("sun397", "sun397/SUN397", "SUN397", (15_880, 3_970, 19_850)),
    "official": Splits(
      "sun397",
      _named(_SUN, "test", 19_850),
      _named(_SUN, "train", 19_850),
      note="Its images are at most 120,000 pixels, compressed anew",
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
      _files("birdsnap", "birdsnap", 2443, split="test"),
      _files("birdsnap", "birdsnap", 47_386, split="train"),
      note="Many addresses of its images are dead",
      may_lack=True,
    ),
  },
  "cars": {
    "coop": _coop("cars", "stanford_cars", "StanfordCars", (6509, 1635, 8041)),
    "official": Splits(
      "cars",
      _named("cars196", "test", 8041),
      _named("cars196", "train", 8144),
      note="TFDS's source of Cars is gone: prepare it from a copy of the "
      "archive",
    ),
  },
  "cub": {
    # TFDS has numbers for names, in the order of classes.txt.
    "official": Splits(
      "cub",
      _tfds("caltech_birds2011", "test", 5794),
      _tfds("caltech_birds2011", "train", 5994),
    ),
  },
  "flowers": {
    "coop": _coop(
      "flowers", "oxford_flowers/jpg", "OxfordFlowers", (4093, 1633, 2463)
    ),
    "official": Splits(
      "flowers",
      _named("oxford_flowers102", "test", 6149),
      _named("oxford_flowers102", "train", 1020),
      _named("oxford_flowers102", "validation", 1020),
    ),
  },
  "food": {
    # TFDS calls the official test "validation".
    "official": Splits(
      "food",
      _named("food101", "validation", 25_250),
      _named("food101", "train", 75_750),
    ),
    "coop": _coop(
      "food", "food-101/images", "Food101", (50_500, 20_200, 30_300)
    ),
  },
  "pets": {
    "official": Splits(
      "pets",
      _named("oxford_iiit_pet", "test", 3669),
      _named("oxford_iiit_pet", "train", 3680),
    ),
    "coop": _coop(
      "pets", "oxford_pets/images", "OxfordPets", (2944, 736, 3669)
    ),
  },
  "dtd": {
    "coop": _coop(
      "dtd", "dtd/images", "DescribableTextures", (2820, 1128, 1692)
    ),
    # The first of ten folds.
    "official": Splits(
      "dtd",
      _named("dtd", "test", 1880),
      _named("dtd", "train", 1880),
      _named("dtd", "validation", 1880),
    ),
  },
  "eurosat": {
    "coop": _coop("eurosat", "eurosat/2750", "EuroSAT", (13_500, 5_400, 8_100)),
    # As large as CoOp's, of other images: TFDS has one split of 27,000.
    "tfds": Splits(
      "eurosat",
      _named("eurosat/rgb", "train[18900:]", 8_100),
      _named("eurosat/rgb", "train[:13500]", 13_500),
      _named("eurosat/rgb", "train[13500:18900]", 5_400),
    ),
  },
  "imagenet_sketch": {
    "official": Splits(
      "imagenet_sketch", _named("imagenet_sketch", "test", 50_889)
    ),
    "folders": Splits(
      "imagenet_sketch", _files("folder", "imagenet-sketch/images", 50_889)
    ),
  },
  "imagenet_r": {
    # TFDS numbers its 200 classes as ImageNet's 1,000.
    "official": Splits("imagenet_r", _named("imagenet_r", "test", 30_000)),
    "folders": Splits(
      "imagenet_r",
      _files("folder", "imagenet-rendition/imagenet-r", 30_000),
    ),
  },
}

"""Names and descriptions by which TFDS knows a folder of image shards."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.artifacts import replace


def shard_name(
  shard_index: int,
  num_shards: int,
  *,
  name: str = "synthjax",
  split: str = "train",
) -> str:
  """Returns the file name of a shard, as TFDS expects it."""
  assert 0 <= shard_index < num_shards, (shard_index, num_shards)
  return f"{name}-{split}.array_record-{shard_index:05d}-of-{num_shards:05d}"


def write_dataset_info(
  folder: epath.PathLike,
  rows: Sequence[int],
  classes: Mapping[int, str],
  *,
  description: str,
  name: str = "synthjax",
  split: str = "train",
  image_size: int | None = None,
  image_format: str = "png",
) -> dict[str, int]:
  """Writes what lets TFDS open a folder whose shards are all there.

  Args:
    folder: of the shards.
    rows: the number of rows of each shard.
    classes: label id -> class name. Ids from 0 without gaps become a
      ClassLabel with these names; others stay plain integers.
    description: one paragraph about the data set.
    name: of the data set.
    split: of the data set.
    image_size: the side of the images, if all have the same.
    image_format: "png", "jpeg" or "webp". TFDS has no name for WebP; what is
      written then leaves the format open, which its data sources, which read
      with Pillow, take, and TensorFlow's decoder does not.

  Returns:
    The files written, each with 0 rows, for the manifest.
  """
  folder = epath.Path(folder)
  names = [
    shard_name(i, len(rows), name=name, split=split) for i in range(len(rows))
  ]
  info = {
    "description": description,
    "fileFormat": "array_record",
    "moduleName": "synthjax.data.shards",
    "name": name,
    "splits": [
      {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": split,
        "numBytes": str(sum((folder / n).stat().length for n in names)),
        "shardLengths": [str(n) for n in rows],
      }
    ],
    "version": "1.0.0",
  }
  named = sorted(classes) == list(range(len(classes)))
  files = {
    "dataset_info.json": json.dumps(info, indent=2),
    "features.json": json.dumps(
      _features(classes, named, image_size, image_format), indent=2
    ),
  }
  if named:
    files["label.labels.txt"] = "\n".join(_unique_names(classes))
  for file, text in files.items():
    with replace(folder, file) as path:
      path.write_text(text + "\n", encoding="utf-8")
  return dict.fromkeys(files, 0)


def _features(
  classes: Mapping[int, str],
  named: bool,
  image_size: int | None,
  image_format: str,
) -> dict[str, Any]:
  """Returns the content of features.json, as TFDS 4.9 writes it."""
  module = "tensorflow_datasets.core.features"
  side = str(image_size or -1)
  text = {"pythonClassName": f"{module}.text_feature.Text", "text": {}}
  integer = {
    "pythonClassName": f"{module}.tensor_feature.Tensor",
    "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
  }
  label = {
    "pythonClassName": f"{module}.class_label_feature.ClassLabel",
    "classLabel": {"numClasses": str(len(classes))},
  }
  image = {
    "pythonClassName": f"{module}.image_feature.Image",
    "image": {
      "dtype": "uint8",
      "encodingFormat": "" if image_format == "webp" else image_format,
      "shape": {"dimensions": [side, side, "3"]},
    },
  }
  return {
    "pythonClassName": f"{module}.features_dict.FeaturesDict",
    "featuresDict": {
      "features": {
        "id": text,
        "image": image,
        "label": label if named else integer,
        "prompt": text,
        "seed": integer,
      }
    },
  }


def _unique_names(classes: Mapping[int, str]) -> list[str]:
  """Returns the names by id; TFDS wants one line each, and no name twice."""
  names = [" ".join(classes[i].split()) for i in sorted(classes)]
  count = Counter(names)
  return [
    f"{name} ({i})" if count[name] > 1 or not name else name
    for i, name in enumerate(names)
  ]

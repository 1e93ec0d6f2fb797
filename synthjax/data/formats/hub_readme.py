"""The README.md of an export, which `datasets` and Hugging Face's hub read.

Its YAML says which files are of the split, whatever the folders are called:
`datasets.load_dataset(folder)` opens the export as it is.
"""

from collections.abc import Mapping, Sequence

import yaml
from etils import epath

from synthjax.runtime.atomic import replace

FILE = "README.md"
_TEXT = """
# {count:,} generated images of {classes:,} classes

A text-to-image model drew every image from the `prompt` beside it; none is a
photograph, and `label` is the class that the prompt is about. The files say so
themselves, in their metadata (IPTC's digital source type).

    datasets.load_dataset("<this folder>", split="{split}")
"""


def write(
  folder: epath.PathLike,
  names: Sequence[str],
  *,
  split: str,
  files: str,
  count: int,
  columns: Mapping[str, str] | None = None,
) -> dict[str, int]:
  """Writes the README; returns its name, and that it holds no row.

  Args:
    folder: of the export.
    names: of the classes, no two alike.
    split: of the images.
    files: a pattern of theirs, below the folder.
    count: of the images.
    columns: types of those beside image and label; None where a list beside the
      images decides, whose labels are numbers to `imagefolder`.
  """
  files = [{"split": split, "path": files}]
  about = {
    "task_categories": ["image-classification"],
    "tags": ["synthetic", "generated", "text-to-image"],
    "configs": [{"config_name": "default", "data_files": files}],
  }
  if columns is not None:
    names_of = {str(label): name for label, name in enumerate(names)}
    kinds = {"image": "image", "label": {"class_label": {"names": names_of}}}
    features = [{"name": n, "dtype": k} for n, k in (kinds | columns).items()]
    about["dataset_info"] = {"features": features}
  head = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
  text = _TEXT.format(count=count, classes=len(names), split=split)
  with replace(folder, FILE) as path:
    path.write_text(f"---\n{head}---\n{text}", encoding="utf-8")
  return {FILE: 0}

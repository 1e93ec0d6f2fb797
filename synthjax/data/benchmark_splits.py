"""Finds a split of a data set of the paper, and compares its size."""

from typing import Any

from absl import logging
from etils import epath

from synthjax.data import spaces
from synthjax.data.benchmarks import BENCHMARKS, Splits
from synthjax.errors import UserError, unknown_names

_PATHS = ("path", "split_file")  # fields that are below the user's folder


def resolve(
  name: str,
  split: str,
  space: Any,
  splits: str | None = None,
  data_dir: epath.PathLike | None = None,
  image_size: int | None = None,
) -> tuple[dict[str, Any], Splits]:
  """Finds how to open a split of a data set of the paper.

  Args:
    name: a key of BENCHMARKS.
    split: "train", "validation" or "test".
    space: the label space that rows are to be labelled with.
    splits: a key of BENCHMARKS[name], the paper's by default.
    data_dir: where CoOp's folders lie, or where TFDS prepares data sets (its
      own folder by default).
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A block for `real.open_real`, and the splits.

  Raises:
    UserError: about a name, a split that is not there, a label space with
      another number of classes, or a data_dir that is needed.
  """
  if name not in BENCHMARKS:
    raise unknown_names("data set of the paper,", [name], BENCHMARKS)
  splits = splits or next(iter(BENCHMARKS[name]))
  if splits not in BENCHMARKS[name]:
    raise unknown_names(f"splits of {name},", [splits], BENCHMARKS[name])
  found = BENCHMARKS[name][splits]
  parts = {s: getattr(found, s) for s in ("train", "validation", "test")}
  if not parts.get(split):
    there = [each for each, part in parts.items() if part]
    raise unknown_names(f"split of {name} ({splits}),", [split], there)
  classes = len(spaces.load_space(found.space).classes)
  if len(space.classes) != classes:
    raise UserError(
      f"{name} ({splits}) has {classes} classes, but the label space "
      f"{space.name!r} has {len(space.classes)}: choose {found.space!r}."
    )
  block = dict(parts[split].block)
  if image_size is not None:
    block["image_size"] = image_size
  if block["kind"] == "tfds":
    return block | ({"data_dir": data_dir} if data_dir else {}), found
  if data_dir is None:
    below = ", ".join(block[key] for key in _PATHS if key in block)
    raise UserError(
      f"{name} ({splits}) is read from the files of its authors: give the "
      f"data_dir that holds {below}. Other splits: "
      f"{', '.join(each for each in BENCHMARKS[name] if each != splits)}."
    )
  root = epath.Path(data_dir).expanduser()
  paths = {key: str(root / block[key]) for key in _PATHS if key in block}
  return block | paths, found


def check_size(found: int, name: str, split: str, splits: Splits) -> None:
  """Compares the rows of a split with those it should have.

  Raises:
    UserError: if they differ; of Birdsnap, whose images are fetched one by one
      from addresses that die, a warning.
  """
  size = getattr(splits, split).size
  if size in (None, found):
    return
  told = (
    f"The split {split!r} of {name} has {found} rows, where {size} are expected"
  )
  if splits.may_lack and found < size:
    logging.warning("%s. %s.", told, splits.note)
    return
  note = f" {splits.note}." if splits.note else ""
  raise UserError(
    f"{told}.{note} The copy may be incomplete, changed, or of another "
    "version; to use it as it is, open it by its own kind (tfds, folder, ...)."
  )

"""Splits and few-shot draws from the files of CoOp (Zhou et al. 2022).

`split_zhou_DATASET.json` holds {"train": [[path, label, class name], ...],
"val": ..., "test": ...}. `split_fewshot/shot_16-seed_1.pkl` holds such records
of a draw, with paths of the machine that drew them. Their labels are in an
order of their own, so rows are labelled by class name, and else by folder.
"""

import io
import json
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from etils import epath

from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names

# --- few-shot files of CoOp, which are pickles, read without running them ----
# A pickle is a program: two of its instructions import and call whatever they
# name. Here a name must be that of the one record that these files hold, and
# nothing is imported or called.

# Some 12 operations a record; ImageNet's file of 16 shots has 16,000 records.
MAX_OPERATIONS = 5_000_000
RECORDS = (
  "dassl.data.datasets.base_dataset.Datum",
  "dassl.data.datasets.Datum",
  "datasets.utils.Datum",
)


class Datum(NamedTuple):
  """One image of a split."""

  impath: str
  label: int  # in the numbering of the file
  classname: str


class _Name(NamedTuple):
  """A name that the pickle would import."""

  name: str


class _Object(NamedTuple):
  """An object that the pickle would make."""

  state: dict


class _Machine(NamedTuple):
  stack: list
  marks: list[int]  # lengths of the stack
  memo: dict[int, Any]


def read(file: BinaryIO) -> dict[str, list[Datum]]:
  """Reads {"train": [Datum, ...], ...} from a pickle.

  Raises:
    UserError: naming what else the pickle asks for, or if it is damaged.
  """
  machine = _Machine([], [], {})
  try:
    for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
      if count > MAX_OPERATIONS:
        raise UserError(f"it has more than {MAX_OPERATIONS:,} operations")
      if opcode.name == "STOP":
        break
      if opcode.name not in _OPERATIONS:
        raise UserError(
          f"it uses the operation {opcode.name}, which no few-shot file needs"
        )
      _OPERATIONS[opcode.name](machine, arg)
    (value,) = machine.stack
    return {
      _text(split): [_datum(each) for each in _typed(items, list)]
      for split, items in _typed(value, dict).items()
    }
  except UserError:
    raise
  except (ValueError, TypeError, LookupError, UnicodeError) as error:
    raise UserError(f"it is cut short or damaged ({error})") from error


def _typed(value: Any, kind: type) -> Any:
  if type(value) is not kind:
    found, wanted = (
      "record" if each is _Object else each.__name__
      for each in (type(value), kind)
    )
    raise UserError(f"it has a {found} where a {wanted} belongs")
  return value


def _text(value: Any) -> str:
  return _typed(value, str)


def _datum(value: Any) -> Datum:
  state = _typed(value, _Object).state
  if missing := {"_impath", "_label", "_classname"} - state.keys():
    raise UserError(f"it has a record without {', '.join(sorted(missing))}")
  return Datum(
    _text(state["_impath"]),
    _typed(state["_label"], int),
    _text(state["_classname"]),
  )


def _since_mark(machine: _Machine) -> list:
  start = machine.marks.pop()
  values = machine.stack[start:]
  del machine.stack[start:]
  return values


def _push(value: Callable) -> Callable:
  """Returns the operation that pushes value(arg)."""
  return lambda machine, arg: machine.stack.append(value(arg))


def _remember(machine: _Machine, arg: int | None) -> None:
  number = len(machine.memo) if arg is None else arg
  machine.memo[number] = machine.stack[-1]


def _append(machine: _Machine, values: list) -> None:
  _typed(machine.stack[-1], list).extend(values)


def _set_items(machine: _Machine, values: list) -> None:
  target = _typed(machine.stack[-1], dict)
  for key, value in zip(values[::2], values[1::2], strict=True):
    target[_text(key)] = value


def _name(machine: _Machine, name: str) -> None:
  if name not in RECORDS:
    raise UserError(
      f"it asks for {name[:200]!r}, and only {RECORDS[0]!r} is allowed, as a "
      "pickle can run any program that it names; nothing of it was executed"
    )
  machine.stack.append(_Name(name))


def _stack_name(machine: _Machine, _) -> None:
  name = machine.stack.pop()
  _name(machine, f"{_text(machine.stack.pop())}.{_text(name)}")


def _new(machine: _Machine, _) -> None:
  args, _ = _typed(machine.stack.pop(), tuple), machine.stack.pop()
  if args:
    raise UserError("it makes a record from arguments")
  machine.stack.append(_Object({}))


def _build(machine: _Machine, _) -> None:
  state = _typed(machine.stack.pop(), dict)
  _typed(machine.stack[-1], _Object).state.update(state)


def _tuple(machine: _Machine, size: int) -> None:
  start = len(machine.stack) - size
  values = tuple(machine.stack[start:])
  del machine.stack[start:]
  machine.stack.append(values)


_SAME = _push(lambda arg: arg)
_NOTHING = lambda machine, arg: None

# name -> what it does to the machine; the rest of pickle's are refused.
_OPERATIONS = {
  **dict.fromkeys(("PROTO", "FRAME"), _NOTHING),
  **dict.fromkeys(
    ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"), _SAME
  ),
  **dict.fromkeys(
    ("BININT", "BININT1", "BININT2", "LONG1", "LONG", "INT"), _SAME
  ),
  "NONE": _push(lambda _: None),
  "NEWTRUE": _push(lambda _: True),
  "NEWFALSE": _push(lambda _: False),
  "EMPTY_DICT": _push(lambda _: {}),
  "EMPTY_LIST": _push(lambda _: []),
  "EMPTY_TUPLE": _push(lambda _: ()),
  "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
  "TUPLE": lambda machine, _: machine.stack.append(tuple(_since_mark(machine))),
  "TUPLE1": lambda machine, _: _tuple(machine, 1),
  "TUPLE2": lambda machine, _: _tuple(machine, 2),
  "TUPLE3": lambda machine, _: _tuple(machine, 3),
  "APPEND": lambda machine, _: _append(machine, [machine.stack.pop()]),
  "APPENDS": lambda machine, _: _append(machine, _since_mark(machine)),
  "SETITEM": lambda machine, _: _set_items(
    machine, [machine.stack.pop(-2), machine.stack.pop()]
  ),
  "SETITEMS": lambda machine, _: _set_items(machine, _since_mark(machine)),
  **dict.fromkeys(("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"), _remember),
  **dict.fromkeys(
    ("BINGET", "LONG_BINGET", "GET"),
    lambda machine, arg: machine.stack.append(machine.memo[arg]),
  ),
  "GLOBAL": lambda machine, arg: _name(machine, arg.replace(" ", ".")),
  "STACK_GLOBAL": _stack_name,
  "NEWOBJ": _new,
  "BUILD": _build,
}


# --- ------
def coop(
  path: epath.PathLike,
  split_file: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  image_size: int | None = None,
) -> Labelled:
  """Opens one split of a file of CoOp.

  Args:
    path: of the folder of images, such as eurosat/2750, local or gs://.
    split_file: such as eurosat/split_zhou_EuroSAT.json, or a few-shot draw such
      as eurosat/split_fewshot/shot_16-seed_1.pkl.
    split: "train", "validation" or "test"; a draw has no "test".
    classes: name or folder of each class -> label.
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A source of rows in the order of the file, as draws by its protocol need.

  Raises:
    UserError: about a file that is not of this form, names of no class, labels
      that are of two classes, or images that are not there.
  """
  path, file = (epath.Path(p).expanduser() for p in (path, split_file))
  records = read_split(file, split)
  labels = _labels(records, classes, where=str(file))
  files = _relocate([each.impath for each in records], path)
  if gone := image_files.absent(path, files):
    some = ", ".join(sorted(gone)[:5])
    raise UserError(
      f"{len(gone)} of {len(files)} images that {file} lists as {split!r} are "
      f"not in {path}, such as {some}: unpack the data set there."
    )
  return image_files.open_files(path, files, labels, image_size)


def read_split(file: epath.PathLike, split: str) -> list[Datum]:
  """Reads the records of one split from a .json or .pkl file of CoOp."""
  file = epath.Path(file).expanduser()
  try:
    data = file.read_bytes()
    if file.suffix == ".pkl":
      splits = read(io.BytesIO(data))
    else:
      splits = _read_json(json.loads(data))
  except (OSError, UserError, ValueError) as error:
    raise UserError(f"Cannot read the splits of {file}: {error}.") from error
  names = {("validation" if s == "val" else s): s for s in splits}
  if split not in names:
    raise unknown_names(f"split in {file},", [split], names)
  return splits[names[split]]


def _read_json(splits: Any) -> dict[str, list[Datum]]:
  rows = splits.values() if isinstance(splits, dict) else [None]
  fine = all(
    isinstance(each, list) and all(_is_record(row) for row in each)
    for each in rows
  )
  if not fine:
    raise UserError(
      "it must hold a list of [path, label, class name] for each split"
    )
  return {
    split: [Datum(*row) for row in rows] for split, rows in splits.items()
  }


def _is_record(row: Any) -> bool:
  types = [type(value) for value in row] if isinstance(row, list) else []
  return types == [str, int, str]


def _labels(
  records: Sequence[Datum], classes: Mapping[str, int], *, where: str
) -> list[int]:
  """Returns our label of each record."""
  labels_of, labels = class_names.table(classes), []
  unknown, ours_of, theirs_of = {}, {}, {}
  for impath, theirs, name in records:
    # A name of two classes, as are two of ImageNet's, is told by the folder.
    folder = impath.rsplit("/", 2)[-2] if "/" in impath else ""
    ours = labels_of.get(class_names.canonical(name))
    if ours is None and folder:
      ours = labels_of.get(class_names.canonical(folder))
    if ours is None:
      unknown[name] = None
      continue
    labels.append(ours)
    ours_of.setdefault(theirs, {})[ours] = name
    theirs_of.setdefault(ours, {})[theirs] = name
  missing = class_names.missing_classes(classes, theirs_of)
  if unknown or missing:
    raise class_names.mismatch(where, classes, unknown, missing)
  torn = [
    f"{kind} {number} has the names {', '.join(map(repr, names.values()))}"
    for kind, table in (("its label", ours_of), ("our label", theirs_of))
    for number, names in table.items()
    if len(names) > 1
  ]
  if torn:
    listed = "\n  ".join(torn[: class_names.MAX_LISTED])
    raise UserError(
      f"The labels of {where} are not one to a class:\n  {listed}\nIt is "
      "damaged, or two of its names mean one class of the label space."
    )
  return labels


def _relocate(impaths: Sequence[str], path: epath.Path) -> list[str]:
  """Returns paths below `path`, without what leads there on other machines."""
  for impath in impaths[:20]:  # as the first may be missing
    parts = impath.replace("\\", "/").split("/")
    for start in range(len(parts)):
      if (path / "/".join(parts[start:])).exists():
        prefix = "/".join([*parts[:start], ""])
        return [
          each.replace("\\", "/").removeprefix(prefix) for each in impaths
        ]
  return list(impaths)

"""Few-shot files of CoOp, which are pickles, read without running them.

A pickle is a program: two of its instructions import and call whatever they
name. Here a name must be that of the one record that these files hold, and
nothing is imported or called.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from synthjax.errors import UserError

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

"""Pickles, read without running them: of tensors, and of other records.

A pickle is a program for a stack machine, and two of its instructions import
and call whatever they name. The machine here has neither: a name stays a name,
and a call picks one of the few functions of a `Format`, which build inert
records. `TORCH` is the format of weights.

It is not a `pickle.Unpickler` with a narrowed `find_class`. That one, too, can
be led astray by a file: BUILD sets attributes of the very functions that are
let through, LONG_BINPUT makes five bytes take gigabytes of memory, and a key of
nested tuples overflows the C stack.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from synthjax.runtime.errors import UserError
from synthjax.weights.torch_files import records
from synthjax.weights.torch_files.records import Global, Module, Tensor, short

# Far beyond the pickle of any checkpoint: some 30 operations a tensor.
MAX_OPERATIONS = 5_000_000
MAX_DEPTH = 100  # containers in containers
MAX_ARGUMENTS = 16


class Format(NamedTuple):
  """What the pickles of one kind of file may name and call."""

  is_name: Callable[[str], bool]  # whether it may be named
  is_class: Callable[[str], bool]  # whether its objects become a `Module`
  allowed: str  # for messages: "Only <allowed> allowed"
  usual: str  # "its pickle <does so>, <usual>"
  advice: str  # about a file that names something else
  calls: Mapping[str, Callable] = {}  # that REDUCE may call
  storage: Callable[[Any], records.Storage] | None = None  # by persistent id


TORCH = Format(
  is_name=records.is_allowed,
  is_class=lambda name: name.startswith(records.TORCHSCRIPT),
  allowed="what rebuilds plain tensors is",
  usual="which torch.save never does for weights",
  advice="If you trust its source, load it in PyTorch and save the bare "
  "weights, torch.save(model.state_dict(), ...), as dense tensors and without "
  "other objects.",
  calls=records.CALLS,
  storage=records.storage,
)


class Machine(NamedTuple):
  """The state of one run."""

  format: Format
  stack: list
  marks: list[int]  # lengths of the stack
  memo: dict[int, Any]
  storages: dict[str, records.Storage]  # the first of each key
  refused: dict[str, None]  # names, in the order they were met


def load(
  file: BinaryIO, kind: Format = TORCH
) -> tuple[Any, dict[str, records.Storage]]:
  """Reads one pickle, and leaves the file behind it.

  Args:
    file: at the start of the pickle.
    kind: what it may name and call.

  Returns:
    Plain values, dicts, lists and tuples of Tensor, Module and Global; and the
    storages that were named, by their keys.

  Raises:
    UserError: about every name that is not allowed, or how the pickle is not
      one of its kind.
  """
  machine, value, problem = Machine(kind, [], [], {}, {}, {}), None, None
  try:
    value = _run(machine, file)
    _check_depth(value)
  except UserError as error:
    problem = str(error)
  except (
    *(ValueError, TypeError, LookupError, ArithmeticError),
    *(struct.error, MemoryError),
  ) as error:
    problem = (
      f"its pickle is cut short or damaged ({type(error).__name__}: "
      f"{str(error)[:200]}). Fetch the file again, and compare its size or "
      "checksum with that of its source."
    )
  # First, as it is often what the other problem comes from.
  if machine.refused:
    names = ", ".join(short(name) for name in list(machine.refused)[:20])
    raise UserError(
      f"its pickle asks for {names}. Only {kind.allowed} allowed, as a pickle "
      "can run any program that it names; nothing of the file was executed. "
      f"{kind.advice}"
    )
  if problem:
    raise UserError(problem)
  return value, machine.storages


def _run(machine: Machine, file: BinaryIO) -> Any:
  for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
    if count > MAX_OPERATIONS:
      raise UserError(
        f"its pickle has more than {MAX_OPERATIONS:,} operations, which no "
        "such file needs."
      )
    if opcode.name == "STOP":
      (value,) = machine.stack
      return value
    if opcode.name not in OPERATIONS:
      raise _never(machine, f"uses the operation {opcode.name}")
    OPERATIONS[opcode.name](machine, arg)


def _check_depth(value: Any) -> None:
  """Refuses containers in containers in containers, without recursion."""
  holder = [value]
  seen, level = set(), {id(holder): holder}
  for _ in range(MAX_DEPTH):
    seen |= level.keys()
    inside = {}
    for container in level.values():
      children = container.values() if type(container) is dict else container
      for child in children:
        child = child.state if type(child) is Module else child
        if type(child) in (dict, list, tuple) and id(child) not in seen:
          inside[id(child)] = child
    if not inside:
      return
    level = inside
  raise UserError(f"its pickle is nested deeper than {MAX_DEPTH} levels.")


def _push(machine, arg):
  machine.stack.append(arg)


def _constant(make: Callable) -> Callable:
  return lambda machine, arg: machine.stack.append(make())


def _since_mark(machine) -> list:
  start = machine.marks.pop()
  items = machine.stack[start:]
  del machine.stack[start:]
  return items


def _take(machine, number: int) -> list:
  if number > len(machine.stack):
    raise IndexError("a value is taken from an empty stack")
  items = machine.stack[len(machine.stack) - number :]
  del machine.stack[len(machine.stack) - number :]
  return items


def _tuple_of(number: int) -> Callable:
  return lambda machine, arg: machine.stack.append(
    tuple(_take(machine, number))
  )


def _is_refused(machine, value: Any) -> bool:
  """Tells whether the run only goes on to find further names."""
  return type(value) is Global and value.name in machine.refused


def _set_items(machine, items: list) -> None:
  target = machine.stack[-1]
  if _is_refused(machine, target):
    return
  if type(target) is not dict:
    raise TypeError(f"items are set in {short(target)}")
  for key, value in zip(items[::2], items[1::2], strict=True):
    if not records.is_key(key):
      raise TypeError(f"a dict with the key {short(key)}")
    target[key] = value


def _append(machine, items: list) -> None:
  target = machine.stack[-1]
  if _is_refused(machine, target):
    return
  if type(target) is not list:
    raise TypeError(f"items are appended to {short(target)}")
  target.extend(items)


def _dict(machine, arg):
  items = _since_mark(machine)
  machine.stack.append({})
  _set_items(machine, items)


def _put(machine, index):
  machine.memo[index] = machine.stack[-1]


def _global(machine, name: str) -> None:
  if not machine.format.is_name(name):
    machine.refused[name] = None
  machine.stack.append(Global(name))


def _stack_global(machine, arg):
  module, name = _take(machine, 2)
  if type(module) is not str or type(name) is not str:
    raise TypeError(f"a name of {short(module)} and {short(name)}")
  _global(machine, f"{module}.{name}")


def _call(machine, arg):
  """REDUCE: calls what is allowed."""
  function, args = _take(machine, 2)
  name = function.name if type(function) is Global else ""
  if _is_refused(machine, function):
    result = function
  elif machine.format.is_class(name):
    result = Module(name, [])  # a member of an enumeration
  elif name not in machine.format.calls or type(args) is not tuple:
    raise _never(machine, f"calls {short(function)}")
  else:
    try:
      if len(args) > MAX_ARGUMENTS:
        raise TypeError(f"it gives {len(args)} arguments")
      result = machine.format.calls[name](*args)
    except UserError:
      raise
    except (TypeError, ValueError) as error:
      what = f"calls {name} so ({str(error)[:200]})"
      raise _never(machine, what) from None
  machine.stack.append(result)


def _new(machine, arg):
  """NEWOBJ: makes an object of a class that the format allows."""
  kind, args = _take(machine, 2)
  name = kind.name if type(kind) is Global else ""
  if _is_refused(machine, kind):
    machine.stack.append(kind)
  elif machine.format.is_class(name) and args == ():
    machine.stack.append(Module(name, []))
  else:
    raise _never(machine, f"makes an object of {short(kind)}")


def _build(machine, arg):
  """BUILD: sets the attributes of an object."""
  target, state = _take(machine, 2)
  if type(target) is Module:
    target.state[:] = [state]
  elif type(target) is dict and type(state) is dict:
    pass  # the versions that a state dict's `_metadata` holds
  elif type(target) is Tensor and type(state) is tuple and len(state) == 3:
    pass  # requires_grad, volatile and hooks, of a Parameter before 0.4
  elif not _is_refused(machine, target):
    raise _never(machine, f"sets attributes of {short(target)}")
  machine.stack.append(target)


def _never(machine, what: str) -> UserError:
  return UserError(
    f"its pickle {what}, {machine.format.usual}; nothing of the file was "
    "executed."
  )


def _storage(machine, arg):
  if machine.format.storage is None:
    raise _never(machine, "uses the operation BINPERSID")
  storage = machine.format.storage(machine.stack.pop())
  machine.storages.setdefault(storage.key, storage)
  machine.stack.append(storage)


_PUSHED = (
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
  *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
  *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
  "PROTO": lambda m, arg: None,
  "FRAME": lambda m, arg: None,
  **dict.fromkeys(_PUSHED, _push),
  "NONE": _constant(lambda: None),
  "NEWTRUE": _constant(lambda: True),
  "NEWFALSE": _constant(lambda: False),
  "EMPTY_TUPLE": _constant(tuple),
  "EMPTY_LIST": _constant(list),
  "EMPTY_DICT": _constant(dict),
  "MARK": lambda m, arg: m.marks.append(len(m.stack)),
  "POP": lambda m, arg: m.stack.pop(),
  "POP_MARK": lambda m, arg: _since_mark(m),
  "DUP": lambda m, arg: m.stack.append(m.stack[-1]),
  "TUPLE": lambda m, arg: m.stack.append(tuple(_since_mark(m))),
  "TUPLE1": _tuple_of(1),
  "TUPLE2": _tuple_of(2),
  "TUPLE3": _tuple_of(3),
  "LIST": lambda m, arg: m.stack.append(_since_mark(m)),
  "DICT": _dict,
  "APPEND": lambda m, arg: _append(m, _take(m, 1)),
  "APPENDS": lambda m, arg: _append(m, _since_mark(m)),
  "SETITEM": lambda m, arg: _set_items(m, _take(m, 2)),
  "SETITEMS": lambda m, arg: _set_items(m, _since_mark(m)),
  **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
  "MEMOIZE": lambda m, arg: _put(m, len(m.memo)),
  **dict.fromkeys(
    ("GET", "BINGET", "LONG_BINGET"),
    lambda m, index: m.stack.append(m.memo[index]),
  ),
  "GLOBAL": lambda m, name: _global(m, name.replace(" ", ".")),
  "STACK_GLOBAL": _stack_global,
  "INST": lambda m, name: (_since_mark(m), _global(m, name.replace(" ", "."))),
  "REDUCE": _call,
  "NEWOBJ": _new,
  "BUILD": _build,
  "BINPERSID": _storage,
}

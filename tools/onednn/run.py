r"""Runs a config on an Intel CPU with AMX, several times as fast.

  pip install onednn-cpu-gomp onednn-devel-cpu-gomp
  taskset -c 0 python -m tools.onednn.run \
    --config=configs/train_generator.py:stage=base --workdir=$OUT

XLA's CPU backend convolves and multiplies in float32, without the tile units
(AMX) of recent Xeons. Here oneDNN does so in bfloat16: all convolutions of
`synthjax.models.conv` and the matrix products of Flax's Dense, with their
gradients. Sums, weights and whatever lies between stay in float32, so results
differ from a plain run's by bfloat16's rounding. It is made for the trainings
of configs/train_generator.py and configs/train_clip.py.

The flags are those of `synthjax.main`, and a workdir may change between the
two. The first run compiles convolution.cc with g++ into SYNTHJAX_CACHE (by
default ~/.cache/synthjax). ONEDNN_ROOT names the folder of oneDNN's `include`
and `lib` if that is not the Python environment. On the cores of one machine,
one process each (`taskset`) does more than one process on all.
"""

import ctypes
import functools
import hashlib
import math
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthjax import main as synthjax_main
from synthjax.models import conv
from synthjax.runtime import cache
from synthjax.runtime.errors import UserError, as_message

SOURCE = pathlib.Path(__file__).with_name("convolution.cc")
INSTALL = "pip install onednn-cpu-gomp onednn-devel-cpu-gomp"
TARGETS = ("convolve", "image_gradient", "kernel_gradient")
# XLA takes and returns its buffers in every step, and Linux clears their pages:
# a third of the time with those of 4 KiB, an eighth with huge ones.
TUNABLES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# Rows of a matrix from which on oneDNN multiplies it faster than XLA does.
MIN_ROWS = 256
# Columns of an image up to which it is convolved together with others, and of
# how many. On 4 px images that takes a fifth of the time.
NARROW, SIDE_BY_SIDE = 8, 16
ROW = 64  # columns of a matrix that is convolved as an image

_dot_general = jax.lax.dot_general


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: tuple[tuple[int, int], ...],
  precision: Any = None,
) -> jax.Array:
  """Convolves [n, h, w, c] with [kh, kw, c, o] in bfloat16, to x's type.

  It stands in for `synthjax.models.conv._conv`; `precision` is ignored.
  """
  del precision
  geometry = (*strides, *padding[0], *padding[1])
  (n, _, w, c), (kh, kw, _, _) = x.shape, kernel.shape
  x16, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.float32)
  if (kh, kw) == (1, 1) and geometry == (1, 1, 0, 0, 0, 0):
    # A matrix product. Its kernel's gradient is slow on one long row.
    rows = x16.reshape(1, -1, math.gcd(x.size // c, ROW), c)
    y = _convolve(rows, kernel, geometry).reshape(*x.shape[:3], -1)
  elif w <= NARROW and strides[1] == 1 and sum(padding[1]) == kw - 1:
    # oneDNN fills a tile with places of one row, and these rows are short: the
    # images lie side by side, as far apart as the kernel reaches.
    some, gap = math.gcd(n, SIDE_BY_SIDE), max(padding[1])
    wide = jnp.pad(x16, ((0, 0), (0, 0), (0, gap), (0, 0)))
    wide = wide.reshape(n // some, some, -1, w + gap, c).swapaxes(1, 2)
    y = _convolve(wide.reshape(*wide.shape[:2], -1, c), kernel, geometry)
    y = y.reshape(*y.shape[:2], some, w + gap, -1)[..., :w, :]
    y = y.swapaxes(1, 2).reshape(n, y.shape[1], w, -1)
  else:
    y = _convolve(x16, kernel, geometry)
  return y.astype(x.dtype)


def dot_general(
  x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
  """Is `jax.lax.dot_general`, but by oneDNN where `nn.Dense` has many rows."""
  (axes, kernel_axes), batch = dimension_numbers
  rows = math.prod(x.shape[:-1])
  if (
    rows < MIN_ROWS
    or kernel.ndim != 2
    or (*axes, *kernel_axes) != (x.ndim - 1, 0)
    or any(map(len, batch))
  ):
    return _dot_general(x, kernel, dimension_numbers, **options)
  image = x.reshape(1, 1, rows, x.shape[-1])
  y = convolve(image, kernel[None, None], (1, 1), ((0, 0), (0, 0)))
  return y.reshape(*x.shape[:-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, geometry):
  return _forward(x, kernel, geometry)[0]


def _forward(x, kernel, geometry):
  (sh, sw, top, bottom, left, right), (_, h, w, _) = geometry, x.shape
  kh, kw, _, out = kernel.shape
  height = (h + top + bottom - kh) // sh + 1
  width = (w + left + right - kw) // sw + 1
  y = _call("convolve", (len(x), height, width, out), geometry, x, kernel)
  return y, (x, kernel)


def _backward(geometry, saved, grad):
  x, kernel = saved
  grad = grad.astype(jnp.bfloat16)
  x_grad = _call("image_gradient", x.shape, geometry, grad, kernel)
  kernel_grad = _call("kernel_gradient", kernel.shape, geometry, x, grad)
  return x_grad.astype(x.dtype), kernel_grad


_convolve.defvjp(_forward, _backward)


def _call(name, shape, geometry, *arrays):
  """Calls a function of convolution.cc, whose result is float32 `shape`."""
  result = jax.ShapeDtypeStruct(shape, jnp.float32)
  call = jax.ffi.ffi_call(f"onednn_{name}", result, vmap_method="sequential")
  return call(*arrays, geometry=np.array(geometry, np.int64))


def build(folder: pathlib.Path) -> pathlib.Path:
  """Compiles convolution.cc, if the folder does not hold that already.

  Returns:
    The path of the library.

  Raises:
    UserError: without AMX, g++ or oneDNN.
  """
  if not has_amx():
    raise UserError(
      "This CPU has no AMX (amx_bf16 of /proc/cpuinfo), for which this tool is "
      "made: run `python -m synthjax.main` with the same flags."
    )
  if not shutil.which("g++"):
    raise UserError("g++ is not here, which compiles convolution.cc.")
  root = pathlib.Path(os.environ.get("ONEDNN_ROOT") or sys.prefix)
  options = (
    *("-O2", "-std=c++17", "-shared", "-fPIC", "-w"),
    *(f"-I{jax.ffi.include_dir()}", f"-I{root}/include"),
    *(f"-L{root}/lib", f"-Wl,-rpath,{root}/lib"),
  )
  digest = hashlib.sha256(SOURCE.read_bytes() + repr(options).encode())
  path = folder / f"convolution-{digest.hexdigest()[:16]}.so"
  if path.exists():
    return path
  folder.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(f".{os.getpid()}")
  command = ("g++", *options, str(SOURCE), "-ldnnl", "-o", str(part))
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise UserError(
      f"g++ cannot compile {SOURCE.name} with oneDNN in {root}: "
      f"{done.stderr.strip()[:500]}\nInstall oneDNN: `{INSTALL}`. If it is "
      "elsewhere, set ONEDNN_ROOT to the folder of its include and lib."
    )
  part.replace(path)  # another process may do the same
  return path


def has_amx() -> bool:
  """Whether the CPU multiplies tiles of bfloat16."""
  about = pathlib.Path("/proc/cpuinfo")
  return about.exists() and "amx_bf16" in about.read_text()


def register(path: pathlib.Path) -> None:
  """Makes the library's functions known to XLA."""
  library = ctypes.CDLL(str(path))
  for name in TARGETS:
    function = jax.ffi.pycapsule(getattr(library, name))
    jax.ffi.register_ffi_target(f"onednn_{name}", function, platform="cpu")


def install() -> None:
  """Puts oneDNN's functions in the place of JAX's."""
  register(build(cache.private_folder() / "onednn"))
  conv._conv = convolve
  jax.lax.dot_general = dot_general


def main(argv: Sequence[str]) -> None:
  """Runs `synthjax.main` so; `argv` is without the program's name."""
  if not TUNABLES.keys() <= os.environ.keys():  # read as a process starts
    os.execve(sys.executable, sys.orig_argv, os.environ | TUNABLES)
  with as_message():
    install()
  synthjax_main.main(argv)


if __name__ == "__main__":
  main(sys.argv[1:])

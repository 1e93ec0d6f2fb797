"""What generators share: batches of one compiled size, weights on devices."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.core import Scope

from synthjax.generators import Adapted, Generator, Learner
from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes

# Images for each device: BATCH_SIZE where its memory is unknown, at most MOST
# where it is large.
BATCH_SIZE, MOST = 64, 256
AHEAD = 16  # coming batches whose prompts may be encoded early


class Devices(NamedTuple):
  """How arrays lie on the devices of this process, which draws for itself."""

  mesh: jax.sharding.Mesh
  copied: jax.sharding.NamedSharding  # a whole copy on each
  split: jax.sharding.NamedSharding  # the rows of a batch over all


def own_devices(fsdp: int = 1) -> Devices:
  """Returns the devices of this process.

  Args:
    fsdp: how many share one copy of the weights between them.

  Raises:
    UserError: when they do not split into groups of that size.
  """
  mesh = meshes.make_mesh(fsdp, local=True)
  return Devices(mesh, meshes.copied(mesh), meshes.split(mesh))


def make_generator(
  begin: Callable[..., jax.Array],
  finish: Callable[..., jax.Array],
  params: Any,
  make_read: Callable[[int], Callable[..., Any]],
  devices: Devices,
  *,
  batch_size: int | None,
  precision: str,
  identity: dict[str, Any],
  example: str | Adapted = "",
  **facts: Any,
) -> Generator:
  """Returns a Generator that compiles one batch size.

  Args:
    begin: (start_steps, params, texts, rngs, references) -> x, the walk,
      which real guidance shortens: compiled once for each start_steps.
    finish: (params, texts, rngs, x) -> uint8 [n, h, w, 3], compiled once.
    params: its weights, on the devices; see `put`.
    make_read: n -> (prompts [n], coming) -> texts, arrays split over the
      devices. `coming` are the prompts of the next batches. A prompt is a text,
      or `Adapted`.
    devices: see `own_devices`.
    batch_size: images that each device draws at once; shorter requests are
      filled up. None is as many as its memory holds, up to MOST; or BATCH_SIZE
      where that is unknown, as on a CPU.
    precision: of products of float32; see `schema.Precision`.
    identity: as the Generator's; the precision is added.
    example: a prompt, of those that take the most memory.
    **facts: the other fields of the Generator.

  Raises:
    UserError: when the first batch is drawn, about one that does not fit.
  """
  mesh, _, split = devices
  compile_split = functools.partial(
    jax.jit, in_shardings=(None, split, split, split), out_shardings=split
  )
  finish = compile_split(finish)

  @contextlib.contextmanager
  def tracing():
    with jax.default_matmul_precision(precision), gathering(devices):
      yield

  @functools.cache
  def begun(start_steps):
    return compile_split(functools.partial(begin, start_steps))

  def working_bytes(count):
    """Compiles a batch for each device, and returns what it takes there."""
    total = count * mesh.size
    rngs = jax.random.split(jax.random.key(0), total)
    texts = make_read(total)([example] * total, [])
    first = begun(None).lower(params, texts, rngs, None)
    last = finish.lower(params, texts, rngs, first.out_info)
    working = [memory.working_bytes(x.compile()) for x in (first, last)]
    return max(working) + memory.held_bytes(texts)

  def largest_batch():
    with tracing():
      working = working_bytes(BATCH_SIZE)
    held = memory.held_bytes(params)
    largest = memory.largest_batch(held, working, BATCH_SIZE, most=MOST)
    logging.info(
      "Each device draws %d images at once: %d need %.1f GiB beside the %.1f "
      "of the weights, and it has %.1f.",
      *(largest, BATCH_SIZE, working / memory.GIB),
      *(held / memory.GIB, memory.limit() / memory.GIB),
    )
    return largest

  @functools.cache
  def make():
    """Chooses the batch size, for which it compiles; returns the stream."""
    each = batch_size or largest_batch()
    total = each * mesh.size
    check = functools.partial(
      memory.checked,
      held=params,
      batch_size=each,
      field="config.generator.batch_size",
    )
    begun_checked = functools.cache(lambda steps: check(begun(steps)))
    finish_checked, read = check(finish), make_read(total)

    def run(prompts, rngs, references, start_steps, coming):
      lack = total - len(prompts)
      with gathering(devices):
        texts = read([*prompts, *prompts[-1:] * lack], coming)
      rngs = fill_up(rngs, lack)
      if references is not None:
        # Where there are several processes, `jit` takes no arrays of the host.
        references = jax.device_put(fill_up(references, lack), split)
      with tracing():
        x = begun_checked(start_steps)(params, texts, rngs, references)
        return finish_checked(params, texts, rngs, x)

    return make_stream(run, total)

  if batch_size is None and memory.limit() is None:
    batch_size = BATCH_SIZE
  total = batch_size and batch_size * mesh.size
  # At the first draw, so that a finished workdir compiles nothing.
  stream = lambda *args, **more: make()(*args, **more)
  if precision != "default":  # absent otherwise, so that older runs are found
    identity = identity | {"precision": precision}
  return Generator(stream, total, identity=identity, **facts)


def with_learner(
  params: Mapping[str, Any], learner: Learner | None, devices: Devices
) -> dict[str, Any]:
  """Returns the parameters with those of a learner, as "learner", if any."""
  if learner is None:
    return dict(params)
  variables = jax.device_put(learner.variables, devices.copied)
  return {**params, "learner": variables}


def make_stream(
  run: Callable[..., jax.Array], batch_size: int
) -> Callable[..., Iterator[np.ndarray]]:
  """Returns the `stream` of a Generator.

  Args:
    run: (prompts, rngs, references, start_steps, coming) -> uint8
      [batch_size, h, w, 3] on the device. There are at most batch_size prompts
      and keys, and as many references or None; `coming` are the prompts of the
      next batches. Prompts are `Adapted` where there are adapters.
    batch_size: images drawn at once.
  """

  def stream(
    prompts: Sequence[str],
    rngs: jax.Array,
    references: np.ndarray | None = None,
    start_steps: int | None = None,
    adapters: Sequence[tuple[int, ...]] | None = None,
  ) -> Iterator[np.ndarray]:
    """Yields uint8 [n, h, w, 3].

    Each number of start_steps is compiled, and each of adapters of an image.
    """
    if adapters is not None:
      prompts = [*map(Adapted, prompts, adapters)]
    if (references is None) != (start_steps is None):
      raise ValueError("Real guidance needs both references and start_steps.")

    def outputs():
      for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        coming = prompts[batch.stop : batch.stop + AHEAD * batch_size]
        reference = None if references is None else references[batch]
        out = run(prompts[batch], rngs[batch], reference, start_steps, coming)
        yield out, len(prompts[batch])

    for images, count in meshes.fetch_ahead(outputs()):
      yield images[:count]

  return stream


def fill_up(rows: Any, lack: int) -> Any:
  """Repeats the last row, so that the batch is whole."""
  if not lack:
    return rows
  return jnp.concatenate([rows, jnp.repeat(rows[-1:], lack, axis=0)])


# --- weights ------------------------------------------------------------------


def apply(module: Any, params: Any, *args: Any, method: Any = None) -> Any:
  """Applies a module to its parameters, without the collection."""
  return module.apply({"params": params}, *args, method=method)


def place(
  modules: Mapping[str, Any],
  inputs: Callable[[Any], Sequence[Any]],
  params: Mapping[str, Any],
  devices: Devices,
) -> dict[str, Any]:
  """Puts the weights of modules on devices, in the types that they use.

  Args:
    modules: by the names of the params.
    inputs: module -> arrays, or shapes, that it takes.
    params: see `put`, as are devices and errors.
    devices: of `own_devices`.
  """

  def types_of(module, weights):
    if module.dtype == np.float32:
      return jax.tree.map(lambda _: np.dtype(np.float32), weights)
    call = functools.partial(apply, module)
    return used_dtypes(call, weights, *inputs(module))

  dtypes = {name: types_of(modules[name], params[name]) for name in params}
  return put(params, dtypes, devices)


def put(
  params: Mapping[str, Any], dtypes: Mapping[str, Any], devices: Devices
) -> dict[str, Any]:
  """Puts weights on devices, a copy on each or shares of it.

  It first checks that all fit. Then it takes one array after the other, so
  that the host holds no second copy of all.

  Args:
    params: of each network, arrays of the host.
    dtypes: of each of them on the devices.
    devices: of `own_devices`.

  Raises:
    UserError: about weights that do not fit, where the memory is known.
  """
  params = dict(params)
  places = meshes.shard(devices.mesh, params)

  def size_of(weight, dtype, place):
    return math.prod(place.shard_shape(weight.shape)) * dtype.itemsize

  sizes = jax.tree.map(size_of, params, dtypes, places)
  memory.check_weights(
    {name: sum(jax.tree.leaves(of)) for name, of in sizes.items()},
    field="config.generator",
  )

  def put_one(weight, dtype, place):
    wide = np.asarray(weight, np.float32)
    return jax.device_put(wide.astype(dtype, copy=False), place)

  return jax.tree.map(put_one, params, dtypes, places)


def gathering(devices: Devices) -> contextlib.AbstractContextManager:
  """Has layers that are traced in it gather their weights when they run.

  They wait for the layer's input. XLA would gather all weights before a walk,
  whose steps have the same ones, and every device would hold them all.
  """
  if devices.mesh.shape["fsdp"] == 1:
    return contextlib.nullcontext()
  layers = nn.Conv, nn.Dense, nn.Embed  # they hold all but small weights

  def call(function, args, kwargs, context):
    layer = context.module
    # The parent of one that runs on whole weights, as below, is no module.
    if not isinstance(layer, layers) or not isinstance(layer.parent, nn.Module):
      return function(*args, **kwargs)
    weights = layer.variables["params"]
    weights, args = jax.lax.optimization_barrier((weights, args))
    weights = jax.lax.with_sharding_constraint(weights, devices.copied)
    # At the same path, by which other interceptors know it.
    whole = layer.clone(parent=Scope({"params": weights}, path=layer.path))
    return getattr(whole, context.method_name)(*args, **kwargs)

  return nn.intercept_methods(call)


def cast_once(apply: Callable[..., Any], params: Any, *args: Any) -> Any:
  """Casts weights to the types that `used_dtypes` finds, by its arguments."""
  dtypes = used_dtypes(apply, params, *args)
  return jax.tree.map(lambda w, d: w.astype(d, copy=False), params, dtypes)


def used_dtypes(apply: Callable[..., Any], params: Any, *args: Any) -> Any:
  """Finds the weights that are used in half precision alone.

  Networks keep float32 weights and cast them where they are used, which a
  sampler would do again in each of its steps. The values are the same, bit for
  bit. But on a CPU XLA multiplies in float32 and omits a cast, so that images
  in bfloat16 differ a little.

  Args:
    apply: (params, *args) -> outputs, of the network once.
    params: arrays, or shapes.
    *args: arrays, or shapes; sizes of images and batches do not matter.

  Returns:
    For each weight the half precision, or float32.
  """
  params = jax.tree.map(
    lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32), params
  )
  jaxpr = jax.make_jaxpr(apply)(params, *args).jaxpr
  leaves, tree = jax.tree.flatten(params)
  used = {var: set() for var in jaxpr.invars[: len(leaves)]}
  uses = [(var, None) for var in jaxpr.outvars]
  for eqn in jaxpr.eqns:
    cast = eqn.primitive.name == "convert_element_type"
    dtype = eqn.params["new_dtype"] if cast else None
    uses += [(var, dtype) for var in eqn.invars]
  for var, dtype in uses:
    if isinstance(var, jax.extend.core.Var) and var in used:
      used[var].add(dtype)
  half = ({jnp.dtype(jnp.bfloat16)}, {jnp.dtype(jnp.float16)})
  return tree.unflatten(
    next(iter(types)) if types in half else jnp.dtype(jnp.float32)
    for types in used.values()
  )


# --- encodings of prompts ----------------------------------------------------

CAPACITY = 512  # rows; 140 MB of the released GLIDE's in bfloat16


def cached(
  encode: Callable[[list[Any]], Sequence[Any]],
  *,
  batch_size: int,
  capacity: int = CAPACITY,
) -> Callable[..., list[Any]]:
  """Keeps what `encode` returns for the prompts of the latest calls.

  Args:
    encode: takes exactly `batch_size` prompts and returns as many rows, each of
      which depends on its own prompt alone.
    batch_size: of `encode`; fewer prompts are filled up with the last.
    capacity: rows that are kept between two calls.

  Returns:
    (prompts [n], coming) -> the rows of prompts, a list [n]. `coming` are the
    prompts of later calls, encoded in the places that these leave free.
  """
  rows = {}  # the latest come last

  def look_up(prompts: Sequence[Any], coming: Sequence[Any] = ()) -> list[Any]:
    distinct = dict.fromkeys(prompts)
    missing = [p for p in distinct if p not in rows]
    count = len(missing)
    if count:
      further = dict.fromkeys(coming)
      missing += [p for p in further if p not in distinct and p not in rows]
    for first in range(0, count, batch_size):
      batch = missing[first : first + batch_size]
      filler = batch[-1:] * (batch_size - len(batch))
      rows.update(zip(batch, encode(batch + filler), strict=False))
    for prompt in distinct:
      rows[prompt] = rows.pop(prompt)
    encoded = [rows[prompt] for prompt in prompts]
    for prompt in list(itertools.islice(rows, max(len(rows) - capacity, 0))):
      del rows[prompt]
    return encoded

  return look_up

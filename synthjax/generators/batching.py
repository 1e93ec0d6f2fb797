"""What generators share: batches of one compiled size, weights on devices."""

import contextlib
import functools
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
from synthjax.generators.encodings import Reader
from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes

# Images for each device: BATCH_SIZE where its memory is unknown, at most MOST
# where it is large.
BATCH_SIZE, MOST = 64, 256
AHEAD = 16  # coming batches whose prompts may be encoded early
# Share of a device's memory up to which all weights stay there: more than that
# would hardly be free without the text encoders.
STAYING = 0.25


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


class Weights(NamedTuple):
  """Weights of networks, which may leave the devices and come back."""

  like: Any  # the arrays, or their shapes, with dtypes and shardings
  held: Any  # likewise, of all that lies on the devices at the same time
  get: Callable[[], Any]  # returns them, on the devices


@contextlib.contextmanager
def tracing(devices: Devices, precision: str) -> Iterator[None]:
  """Traces products of float32 in a precision, by weights that are shared."""
  with jax.default_matmul_precision(precision), gathering(devices):
    yield


def make_generator(
  begin: Callable[..., jax.Array],
  finish: Callable[..., jax.Array],
  weights: Weights,
  make_reader: Callable[[int], Reader],
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
    weights: its params.
    make_reader: n -> the Reader of batches of n prompts.
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

  traced = functools.partial(tracing, devices, precision)

  @functools.cache
  def begun(start_steps):
    return compile_split(functools.partial(begin, start_steps))

  def needs(count):
    """Returns pairs of bytes, held and of the work of a batch on each device.

    One is of drawing, for which it compiles; another of encoding prompts.
    """
    total = count * mesh.size
    reader = make_reader(total)
    rngs = jax.random.split(jax.random.key(0), total)
    rngs = jax.device_put(rngs, split)
    texts = reader.like() if reader.like else reader.read([example] * total, [])
    first = begun(None).lower(weights.like, texts, rngs, None)
    last = finish.lower(weights.like, texts, rngs, first.out_info)
    working = max(memory.working_bytes(x.compile()) for x in (first, last))
    working += memory.held_bytes((texts, rngs))
    drawing = memory.held_bytes(weights.held), working
    return [drawing, reader.takes()] if reader.takes else [drawing]

  def largest_batch():
    with traced():
      found = needs(BATCH_SIZE)
    largest, held, working = min(
      (memory.largest_batch(*each, BATCH_SIZE, most=MOST), *each)
      for each in found
    )
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
      held=weights.held,
      batch_size=each,
      field="config.generator.batch_size",
    )
    begun_checked = functools.cache(lambda steps: check(begun(steps)))
    finish_checked, reader = check(finish), make_reader(total)

    def run(prompts, rngs, references, start_steps, coming):
      lack = total - len(prompts)
      with gathering(devices):
        texts = reader.read([*prompts, *prompts[-1:] * lack], coming)
      rngs = fill_up(rngs, lack)
      if references is not None:
        # Where there are several processes, `jit` takes no arrays of the host.
        references = jax.device_put(fill_up(references, lack), split)
      params = weights.get()
      with traced():
        x = begun_checked(start_steps)(params, texts, rngs, references)
        return finish_checked(params, texts, rngs, x)

    return make_stream(run, total, reader.prepare)

  if batch_size is None and memory.limit() is None:
    batch_size = BATCH_SIZE
  total = batch_size and batch_size * mesh.size
  # At the first draw, so that a finished workdir compiles nothing.
  stream = lambda *args, **more: make()(*args, **more)
  if precision != "default":  # absent otherwise, so that older runs are found
    identity = identity | {"precision": precision}
  return Generator(stream, total, identity=identity, **facts)


def with_learner(
  weights: Weights, learner: Learner | None, devices: Devices
) -> Weights:
  """Returns the weights with those of a learner, as "learner", if any."""
  if learner is None:
    return weights
  variables = jax.device_put(learner.variables, devices.copied)
  return beside(weights, {"learner": variables})


def make_stream(
  run: Callable[..., jax.Array],
  batch_size: int,
  prepare: Callable[[Sequence[Any]], int] = len,
) -> Callable[..., Iterator[np.ndarray]]:
  """Returns the `stream` of a Generator.

  Args:
    run: (prompts, rngs, references, start_steps, coming) -> uint8
      [batch_size, h, w, 3] on the device. There are at most batch_size prompts
      and keys, and as many references or None; `coming` are the prompts of the
      next batches. Prompts are `Adapted` where there are adapters.
    batch_size: images drawn at once.
    prepare: see `Reader`; by default nothing is prepared.
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

    def outputs(begin, end):
      for first in range(begin, end, batch_size):
        batch = slice(first, min(first + batch_size, end))
        coming = prompts[batch.stop : batch.stop + AHEAD * batch_size]
        reference = None if references is None else references[batch]
        out = run(prompts[batch], rngs[batch], reference, start_steps, coming)
        yield out, len(prompts[batch])

    end = 0
    while end < len(prompts):
      begin, end = end, end + prepare(prompts[end:])
      for images, count in meshes.fetch_ahead(outputs(begin, end)):
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

  return put(params, _types(modules, inputs, params), devices)


def in_turns(
  modules: Mapping[str, Any],
  inputs: Callable[[Any], Sequence[Any]],
  params: Mapping[str, Any],
  devices: Devices,
  texts: Sequence[str],
) -> Callable[..., Weights]:
  """Places networks whose text encoders leave the devices for the others.

  Up to STAYING of the memory, or where that is unknown, all stay there.

  Args:
    modules: as `place`, as are inputs, params, devices.
    inputs: likewise.
    params: arrays of the host, which keeps them unless all stay.
    devices: likewise.
    texts: names of the text encoders.

  Returns:
    (names of networks) -> their Weights. `get` places those that are not on the
    devices, and deletes all others from there, unless they stay.

  Raises:
    UserError: about text encoders, or other networks, that do not fit; and of
      `get`, about those that it is asked for.
  """
  like = _on(devices, params, _types(modules, inputs, params))
  sizes = {name: memory.held_bytes(of) for name, of in like.items()}
  room, hosts, there = memory.limit(), dict(params), {}
  stay = room is None or sum(sizes.values()) <= STAYING * room

  def check(*groups):
    named = [{name: sizes[name] for name in group} for group in groups]
    memory.check_weights(*named, field="config.generator")

  def get(names):
    if not stay:
      check(names)
      for name in there.keys() - names:
        jax.tree.map(lambda x: x.delete(), there.pop(name))
    for name in names:
      if name not in there:
        there[name] = jax.tree.map(_put, hosts[name], like[name])
    return {name: there[name] for name in names}

  if stay:
    get(list(like))
    hosts.clear()
  else:
    check(texts, [name for name in like if name not in texts])

  def weights_of(*names):
    own = {name: like[name] for name in names}
    return Weights(own, like if stay else own, lambda: get(names))

  return weights_of


def staying(params: Any) -> Weights:
  """Returns the Weights of arrays that stay on the devices."""
  return Weights(params, params, lambda: params)


def beside(weights: Weights, more: Mapping[str, Any]) -> Weights:
  """Adds arrays that stay on the devices to weights of networks."""
  like, held = ({**part, **more} for part in weights[:2])
  return Weights(like, held, lambda: {**weights.get(), **more})


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
  like = _on(devices, params, dtypes)
  sizes = {name: memory.held_bytes(of) for name, of in like.items()}
  memory.check_weights(sizes, field="config.generator")
  return jax.tree.map(_put, dict(params), like)


def _types(modules, inputs, params):
  """Returns the dtypes that modules use the params in; see `place`."""

  def types_of(module, weights):
    if module.dtype == np.float32:
      return jax.tree.map(lambda _: np.dtype(np.float32), weights)
    call = functools.partial(apply, module)
    return used_dtypes(call, weights, *inputs(module))

  return {name: types_of(modules[name], params[name]) for name in params}


def _on(devices, params, dtypes):
  """Returns the shapes, dtypes and shardings of params on devices."""
  params = dict(params)
  return jax.tree.map(
    lambda w, dtype, place: jax.ShapeDtypeStruct(
      w.shape, dtype, sharding=place
    ),
    *(params, dtypes, meshes.shard(devices.mesh, params)),
  )


def _put(weight, like):
  if weight.dtype != like.dtype:
    weight = np.asarray(weight, np.float32).astype(like.dtype, copy=False)
  return jax.device_put(weight, like.sharding)


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

"""The cache folder: compiled functions and fetched weights."""

import os
import pathlib
import sys

from synthjax.runtime.errors import UserError

RELEASED = "released:"  # begins a reference to a fetched file


def private_folder() -> pathlib.Path:
  """Returns a folder that this user alone can read and write.

  SYNTHJAX_CACHE names it; without it, it lies in the platform's cache folder.
  It must be private, as compiled functions in it are run.

  Raises:
    UserError: if the folder cannot be made, or can be written by others.
  """
  chosen = os.environ.get("SYNTHJAX_CACHE")
  folder = pathlib.Path(chosen or _platform_cache() / "synthjax").expanduser()
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"Cannot make the cache folder {folder} ({error.strerror}); set "
      "SYNTHJAX_CACHE to a folder that you can write."
    ) from error
  status = folder.stat()
  if status.st_uid != os.getuid() or status.st_mode & 0o022:
    raise UserError(
      f"The cache folder {folder} can be written by other users. Run "
      f"`chmod 700 {folder}` if it is yours, or set SYNTHJAX_CACHE to a folder "
      "of your own."
    )
  return folder


def use_compilation_cache() -> pathlib.Path:
  """Keeps compiled functions in a private folder, and returns it.

  Raises:
    UserError: if the folder cannot be made, or can be written by others.
  """
  import jax

  folder = private_folder() / "jax"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder


def weights_folder(name: str) -> pathlib.Path:
  """Returns the folder for the files of a released checkpoint."""
  return private_folder() / "weights" / name


def fetched(reference: str) -> pathlib.Path:
  """Returns the file that "released:NAME/FILE" stands for.

  Raises:
    UserError: if there is no such file, with the command that fetches it.
  """
  name, _, file = reference.removeprefix(RELEASED).partition("/")
  path = weights_folder(name) / file
  if not file or not path.is_file():
    raise UserError(
      f"{reference} is not here ({path}): `python -m synthjax.weights fetch "
      f"{name}` fetches it. Or try the same run in the embedded world, which "
      "ships its weights: add :runlocal to the config."
    )
  return path


def _platform_cache() -> pathlib.Path:
  if folder := os.environ.get("XDG_CACHE_HOME"):
    return pathlib.Path(folder)
  macos = sys.platform == "darwin"
  return pathlib.Path("~/Library/Caches" if macos else "~/.cache")

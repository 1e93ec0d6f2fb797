"""Runs the tasks of a config, in order (being written)."""

import os
import pathlib

import jax


def use_compilation_cache() -> pathlib.Path:
  """Keeps compiled functions in a folder of this user, and returns it.

  The environment's SYNTHJAX_CACHE names it, or else it lies in the platform's
  cache folder. It is private, as whoever writes there chooses what runs here.
  """
  chosen = os.environ.get("SYNTHJAX_CACHE")
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
  folder = pathlib.Path(chosen or home / "synthjax").expanduser()
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder

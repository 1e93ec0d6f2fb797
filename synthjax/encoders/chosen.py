"""Which further encoders images are measured by."""

from collections.abc import Sequence
from typing import NamedTuple

from synthjax import cache
from synthjax.errors import UserError

FETCHED, NONE = "fetched", "none"
# Released weights, the first of which that is there is taken. Published figures
# by DINOv2 are those of ViT-L/14 (Stein et al. 2023), those called FID are by
# Inception.
FAMILIES = {
  "Inception": ("inception_fid",),
  "DINOv2": ("dinov2_vitl14", "dinov2_vitb14", "dinov2_vits14"),
}


class Chosen(NamedTuple):
  """What to load, and what was looked for in vain."""

  weights: tuple[str, ...]
  absent: dict[str, str]  # a family -> the released weights to fetch


def choose(asked: str | Sequence[str]) -> Chosen:
  """Finds the weights of further encoders.

  Args:
    asked: "fetched" takes those of FAMILIES that are there, "none" takes none;
      else paths and "released:NAME", with commas between them or as a list.

  Raises:
    UserError: if it is none of these.
  """
  if asked == FETCHED:
    found = {
      family: next((n for n in names if _is_there(n)), None)
      for family, names in FAMILIES.items()
    }
    return Chosen(
      tuple(f"{cache.RELEASED}{name}" for name in found.values() if name),
      {f: FAMILIES[f][0] for f, name in found.items() if not name},
    )
  names = asked.split(",") if isinstance(asked, str) else asked
  plain = isinstance(names, list | tuple)
  if not plain or not all(isinstance(name, str) for name in names):
    raise UserError(
      f"config.card.encoders={asked!r} must be '{FETCHED}' (those of "
      f"{' and '.join(FAMILIES)} that are here), '{NONE}', or weights such as "
      "'released:dinov2_vits14' with commas between them."
    )
  names = tuple(name.strip() for name in names)
  return Chosen(() if names == (NONE,) else names, {})


def _is_there(name: str) -> bool:
  return (cache.weights_folder(name) / "encoder.safetensors").is_file()

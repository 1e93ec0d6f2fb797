"""What is known of a released checkpoint, and where publishers keep theirs."""

from collections.abc import Mapping
from typing import NamedTuple

OPENAI = "https://openaipublic.blob.core.windows.net"
HUGGING_FACE = "https://huggingface.co"
META = "https://dl.fbaipublicfiles.com"
TORCHVISION = "https://download.pytorch.org/models"


class File(NamedTuple):
  """One file of a publisher."""

  name: str
  url: str
  # As its publisher states it, or its first digits; where it is None, the first
  # one seen is remembered.
  sha256: str | None = None
  megabytes: float | None = None  # about, where known
  others: tuple[str, ...] = ()  # addresses of the same weights in other formats


class Made(NamedTuple):
  """One file that is made of a publisher's."""

  sources: tuple[str, ...]  # names of files
  field: str | None = None  # of a config, that takes it
  parameters: int | None = None  # without BatchNorm's averages


class Released(NamedTuple):
  """One checkpoint, possibly of several files."""

  what: str
  files: tuple[File, ...]
  makes: Mapping[str, Made]
  family: str  # of FAMILIES
  licence: str
  note: str = ""


def hub(repository: str, name: str, megabytes: float, *others: str) -> File:
  """A file of a repository of the Hugging Face hub."""
  folder = f"{HUGGING_FACE}/{repository}/resolve/main"
  rest = tuple(f"{folder}/{other}" for other in others)
  return File(name, f"{folder}/{name}", None, megabytes, rest)

"""Small blocks that most configs have."""

from typing import Any

from ml_collections.config_dict import FieldReference, placeholder


def real_images(folder: str | None) -> dict[str, Any] | FieldReference:
  """Returns the real images in a folder, or a field that is None without one.

  A command line can give it, such as
  --config.tune.test="{'kind': 'folder', 'path': 'photos'}".
  """
  return dict(kind="folder", path=folder) if folder else placeholder(object)


def exports() -> dict[str, Any]:
  """Returns config.export, which writes no format until some are asked for.

  For a workdir that is finished: --config.tasks="('export',)"
  --config.export.formats=webdataset,png_folder
  """
  return dict(formats=())


def report(**fields: Any) -> dict[str, Any]:
  """Returns config.report; any field of it can be given in place."""
  return dict(samples_per_class=8) | fields

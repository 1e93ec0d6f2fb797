"""The data sets that a run has exported."""

from collections.abc import Mapping
from typing import Any

from synthjax.report import markup
from synthjax.report.checked_files import Run, exports_of
from synthjax.runtime import artifacts

PLACE, TITLE = 140, "Exports"
# What a folder of each format holds.
FORMATS = {
  "webdataset": "WebDataset: tar files",
  "png_folder": "a folder of images for each class",
  "parquet": "Parquet, for Hugging Face",
  "coco": "COCO: images, and boxes in JSON",
  "voc": "PASCAL VOC: images, and boxes in XML",
}
_WHICH = {True: "kept", False: "all drawn", None: "scenes"}
_COLUMNS = {
  "folder": lambda entry: entry["folder"],
  "format": lambda entry: FORMATS.get(entry["format"], entry["format"]),
  "which": lambda entry: _WHICH[entry["selection"]],
  "split": lambda entry: entry["split"],
  "images": lambda entry: markup.count(entry["images"]),
  "files": lambda entry: markup.count(entry["files"]),
  "size (MB)": lambda entry: markup.short(entry["bytes"] / 1e6),
}


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `exports`, format by format.

  They are dicts of format, folder (in the workdir), images (how many, of all
  splits), split (words), selection (whether the filter has chosen them, or None
  where nothing could be filtered), files, bytes and digest.

  Raises:
    UserError: if a manifest is damaged.
  """
  del results
  exports = []
  for name, path in exports_of(run).items():
    manifest = artifacts.load(path)
    spec, images = manifest["spec"], manifest["summary"].get("images", 0)
    files, size = artifacts.totals(manifest)
    splits = images if isinstance(images, Mapping) else {}
    exports.append(
      {
        "format": spec.get("format", path.name),
        "folder": name,
        "images": sum(splits.values()) if splits else images,
        "split": ", ".join(splits) or spec.get("split", ""),
        "selection": spec["selection"] is not None
        if "selection" in spec
        else None,
        "files": files,
        "bytes": size,
        "digest": artifacts.digest(path),
      }
    )
  return {"exports": exports}


def render(results: Mapping) -> str:
  """Shows which formats there are, where they lie and how large they are."""
  if not results["exports"]:
    return ""
  rows = markup.table(
    _COLUMNS, results["exports"], caption="Folders of the workdir"
  )
  return (
    "<p>The images for other programs, each format in a folder of its own; its "
    f"<code>{artifacts.MANIFEST}</code> has the SHA-256 of every file, or of "
    "each thousand of them.</p>"
    f"{rows}"
  )

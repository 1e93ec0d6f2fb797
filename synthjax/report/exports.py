"""The data sets that a run has exported, as a section of the page."""

from collections.abc import Mapping
from html import escape

from etils import epath

from synthjax import artifacts
from synthjax.report import tables
from synthjax.report.sections import Section

# What a folder of each format holds.
FORMATS = {
  "webdataset": "WebDataset: tar files",
  "png_folder": "a folder of images for each class",
  "parquet": "Parquet, for Hugging Face",
  "coco": "COCO: images, and boxes in JSON",
  "voc": "PASCAL VOC: images, and boxes in XML",
}


def read(workdir: epath.PathLike) -> list[dict]:
  """Returns what `export` has left, format by format.

  Returns:
    Dicts of format, folder (in the workdir), images (how many, of all splits),
    split (words), selection (whether the filter has chosen them, or None where
    nothing could be filtered), files, bytes and digest.

  Raises:
    UserError: if a manifest is damaged.
  """
  folder, found = epath.Path(workdir) / "export", []
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if not (path / artifacts.MANIFEST).exists():
      continue
    manifest = artifacts.load(path)
    spec, images = manifest["spec"], manifest["summary"].get("images", 0)
    splits = images if isinstance(images, Mapping) else {}
    found.append(
      {
        "format": spec.get("format", path.name),
        "folder": f"export/{path.name}",
        "images": sum(splits.values()) if splits else images,
        "split": ", ".join(splits) or spec.get("split", ""),
        "selection": spec["selection"] is not None
        if "selection" in spec
        else None,
        "files": len(manifest["files"]),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "digest": artifacts.digest(path),
      }
    )
  return found


def export(results: Mapping) -> Section:
  """Shows which formats there are, where they lie and how large they are."""
  rows = [
    [
      entry["folder"],
      FORMATS.get(entry["format"], entry["format"]),
      {True: "kept", False: "all drawn", None: "scenes"}[entry["selection"]],
      entry["split"],
      tables.count(entry["images"]),
      tables.count(entry["files"]),
      tables.short(entry["bytes"] / 1e6),
    ]
    for entry in results.get("exports") or ()
  ]
  if not rows:
    return Section("export", "Exports", "")
  head = ("folder", "format", "which", "split", "images", "files", "size (MB)")
  table = tables.table(head, rows, caption="Folders of the workdir")
  manifest = f"<code>{escape(artifacts.MANIFEST)}</code>"
  return Section(
    "export",
    "Exports",
    "<p>The images for other programs, each format in a folder of its own; "
    f"its {manifest} has the SHA-256 of every file.</p>{table}",
  )

r"""Uploads what a run has made to the Hugging Face hub.

  synthjax push WORKDIR ORG/NAME [--private] [--all] [--only=images]

The images become the data set ORG/NAME: Parquet files, which
`datasets.load_dataset("ORG/NAME")` opens, with a card. If the task `select` is
done, they are those that it kept; --all uploads all. The classifier of the task
`tune` becomes the model ORG/NAME, for `synthjax classify hf://ORG/NAME IMAGE`.
A run that has one of the two uploads that.

A token that may write is needed: `hf auth login`, or HF_TOKEN. The same command
again uploads what has changed.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import yaml
from etils import epath

from synthjax.data.formats import hub_readme
from synthjax.evals import accuracy, arms
from synthjax.report.card import readme
from synthjax.runtime import artifacts, buckets, hub
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import read_json

PARTS = ("images", "classifier")
SPLIT, SHARD_SIZE = "train", 1000
# What of the folder `card` goes with the images, besides its README.
_OF_CARD = ("samples.png", "images.jsonl", "pairs.json", "card.json")


def push(
  workdir: epath.PathLike,
  repository: str,
  *,
  parts: Sequence[str] = PARTS,
  everything: bool = False,
  private: bool | None = None,
) -> list[str]:
  """Uploads the images and the classifier of a run, if it has them.

  Args:
    workdir: of the run.
    repository: "org/name", of the data set and of the model.
    parts: of PARTS.
    everything: uploads the images that `select` has not kept, too.
    private: of new repositories; None is what the organisation has chosen.

  Returns:
    The addresses of what was uploaded.

  Raises:
    UserError: if the run has none of the parts, or as `hub.upload`.
  """
  workdir = epath.Path(workdir).expanduser()
  hub.parse(f"{hub.SCHEME}{repository}")
  if unknown := [part for part in parts if part not in PARTS]:
    raise unknown_names("part of a run", unknown, PARTS)
  tasks = {"images": "generate", "classifier": "tune"}
  done = [part for part in parts if _is_done(workdir / tasks[part])]
  if not done:
    raise UserError(
      f"{workdir} has no {' and no '.join(parts)} to upload: run "
      f"{' or '.join(tasks[part] for part in parts)} first."
    )
  addresses = []
  for part in done:
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      if part == "images":
        kept = not everything and _is_done(workdir / "select")
        _stage_images(workdir, folder, repository, kept=kept)
      else:
        _stage_classifier(workdir, folder, repository)
      address = hub.upload(
        repository,
        folder,
        kind={"images": "dataset", "classifier": "model"}[part],
        private=private,
        message=f"Upload the {part} of a run of synthjax",
      )
      addresses.append(address)
      say(f"push: {part} uploaded to {address}")
  return addresses


def _is_done(folder: epath.Path) -> bool:
  return (folder / artifacts.MANIFEST).exists()


# --- the images -------------------------------------------------------------


def _stage_images(
  workdir: epath.Path, folder: pathlib.Path, repository: str, *, kept: bool
) -> None:
  """Puts the files of the data set into a folder."""
  from synthjax.data.formats import export_rows, parquet  # need TFDS
  from synthjax.data.generated import drawn_images

  names = (workdir / "generate" / "label.labels.txt").read_text().splitlines()
  source = drawn_images.open_run(workdir, kept=kept, decode=False)
  rows = export_rows.rows(source, encoding={})
  exported = _exported(workdir, kept=kept)
  if exported:
    for name in artifacts.load(exported)["files"]:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).symlink_to((exported / name).resolve())
  else:
    parquet.write(folder, rows, names, split=SPLIT, shard_size=SHARD_SIZE)
  if not _is_done(workdir / "card"):
    return say(
      "push: the README of the images is a short one, as the run has no card: "
      "add the task `card`, and push again."
    )
  artifacts.verify(workdir / "card")
  card = read_json(workdir / "card" / "card.json", dict) | {"kept_only": kept}
  _, head, _ = (folder / hub_readme.FILE).read_text().split("---\n", 2)
  note = f"This data set has {len(rows):,} of them"
  place = readme.Place(
    yaml.safe_load(head) | {"size_categories": [readme.size(len(rows))]},
    f"{note}, those that a filter has kept." if kept else f"{note}.",
    readme.MARKED_FILES,
    f'`datasets.load_dataset("{repository}")` opens the images.',
  )
  (folder / hub_readme.FILE).unlink()  # which may be a link
  (folder / hub_readme.FILE).write_text(
    readme.build(card, place), encoding="utf-8"
  )
  for name in _OF_CARD:
    (workdir / "card" / name).copy(folder / name)


def _exported(workdir: epath.Path, *, kept: bool) -> epath.Path | None:
  """Returns the Parquet files of the task `export`, if they are of these."""
  folder = workdir / "export" / "parquet"
  if buckets.is_bucket(workdir) or not _is_done(folder):
    return None
  spec = artifacts.load(folder)["spec"]
  selection = artifacts.digest(workdir / "select") if kept else None
  images = artifacts.digest(workdir / "generate")
  is_of_these = (spec["images"], spec["selection"]) == (images, selection)
  return folder if is_of_these else None


# --- the classifier ---------------------------------------------------------

_CLASSIFIER = """
# {name}: a classifier of {count} classes

synthjax learned it from generated images, on the features of the encoder
`{encoder}`.

With synthjax installed:

    synthjax classify hf://{repository} IMAGE_OR_FOLDER

From Python: `synthjax.load_classifier("hf://{repository}")`.

Accuracies, of each arm and split:

```
{table}
```

Classes: {classes}
"""


def _stage_classifier(
  workdir: epath.Path, folder: pathlib.Path, repository: str
) -> None:
  """Puts the files of the model into a folder."""
  from synthjax.adapt.heads import HEADS  # needs JAX, as do the weights
  from synthjax.weights import files

  for name in (HEADS, accuracy.FILE):
    artifacts.check_file(workdir / "tune" / name)
    (folder / "tune").mkdir(exist_ok=True)
    (workdir / "tune" / name).copy(folder / "tune" / name)
  encoder = files.read_description(folder / "tune" / HEADS)["encoder"]["config"]
  weights = str(encoder.get("weights"))
  if not weights.startswith(("embedded:", "released:", hub.SCHEME)):
    say(
      f"push: the classifier needs its encoder, {weights}, which others have "
      "not: upload it, too, and tune with it as hf://ORG/NAME."
    )
  results = read_json(workdir / "tune" / accuracy.FILE, dict)
  head = {
    "library_name": "synthjax",
    "pipeline_tag": "image-classification",
    "tags": ["clip", "synthetic"],
  }
  if _is_done(workdir / "generate"):
    head["datasets"] = [repository]
  text = _CLASSIFIER.format(
    name=repository.partition("/")[2],
    count=len(results["classes"]),
    encoder=weights,
    repository=repository,
    table=arms.table(results).strip(),
    classes=", ".join(map(readme.plain, results["classes"])),
  )
  head = yaml.safe_dump(head, sort_keys=False)
  (folder / hub_readme.FILE).write_text(f"---\n{head}---\n{text}", "utf-8")


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax push",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", help="of the run")
  parser.add_argument("repository", help="ORG/NAME")
  parser.add_argument(
    "--private", action="store_true", default=None, help="new repositories"
  )
  parser.add_argument(
    "--all", action="store_true", help="images that were not kept, too"
  )
  parser.add_argument("--only", choices=PARTS, help="one of the two")
  args = parser.parse_args(argv)
  end_well(
    lambda: push(
      args.workdir,
      args.repository,
      parts=[args.only] if args.only else PARTS,
      everything=args.all,
      private=args.private,
    )
  )


if __name__ == "__main__":
  main()

"""Measures what a run has learned on other labelled images.

synthjax evaluate WORKDIR IMAGES [--task=NAME] [--arm=NAME] [--space=SPACE]
  [--json]

IMAGES is a folder with a folder of images for each class, a CSV of paths and
labels, or another layout of photographs, which may lack classes; or what a
config would name, such as kind=tfds,name=beans,split=test, or
kind=folder,path=photos,split=validation: of a path that is parted into splits
the test images are taken. For a detector, it is a folder of VOC, or a folder
or a .json file of COCO; --task=detect tells that it is meant where the run has
learned to classify, too.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from synthjax.classify import add_choice
from synthjax.runtime import artifacts, cache
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import end_line


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax evaluate",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", help="of the run")
  parser.add_argument("images", help="see above")
  add_choice(parser)
  parser.add_argument(
    "--space", help="of the images, if folders have other names than classes"
  )
  parser.add_argument("--json", action="store_true", help="prints JSON")
  args = parser.parse_args(argv)
  sys.stdout.reconfigure(errors="backslashreplace")
  end_well(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
  from synthjax.adapt import classifier as classifiers
  from synthjax.adapt import evaluation
  from synthjax.data.pipeline import inspection
  from synthjax.detection import detector as detectors
  from synthjax.detection import sources
  from synthjax.labels import spaces
  from synthjax.weights import learned

  cache.use_compilation_cache()
  done = lambda tasks: any(
    pathlib.Path(args.workdir, task, artifacts.MANIFEST).exists()
    for task in tasks
  )
  detects = args.task in learned.DETECTING
  if args.task is None and not done(learned.CLASSIFYING):
    detects = done(learned.DETECTING)
  if detects:
    known, measures = detectors.load(args.workdir, arm=args.arm), detectors
  else:
    known, measures = (
      classifiers.load(args.workdir, arm=args.arm, task=args.task),
      evaluation,
    )
  space = evaluation.space_of(known)
  if args.space:
    space = spaces.load_space(args.space)
    if len(space.classes) != len(known.classes):
      raise UserError(
        f"--space={args.space} has {len(space.classes)} classes, but the run "
        f"has {len(known.classes)}: give the run's own."
      )
  if detects:
    source = sources.open_detection(evaluation.block_of(args.images), space)
  else:
    source = evaluation.open_images(args.images, space)
  inspection.inspect(source)
  of_run = {"task": known.arm.task, "arm": known.arm.name}
  try:
    results = of_run | measures.evaluate(known, source)
  finally:
    end_line()
  if args.json:
    print(json.dumps(results, indent=1))
  else:
    print(f"{of_run['task']}: {of_run['arm']}\n\n{measures.table(results)}")


if __name__ == "__main__":
  main()

"""Measures what a run has learned on other labelled images.

synthjax evaluate WORKDIR IMAGES [--task=NAME] [--arm=NAME] [--space=SPACE]
  [--json]

IMAGES is a folder with a folder of images for each class, a CSV of paths and
labels, or another layout of photographs, which may lack classes; or what a
config would name, such as kind=tfds,name=beans,split=test.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from synthjax.classify import add_choice
from synthjax.runtime import cache
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
  from synthjax.labels import spaces

  cache.use_compilation_cache()
  classifier = classifiers.load(args.workdir, arm=args.arm, task=args.task)
  space = evaluation.space_of(classifier)
  if args.space:
    space = spaces.load_space(args.space)
    if len(space.classes) != len(classifier.classes):
      raise UserError(
        f"--space={args.space} has {len(space.classes)} classes, but the run "
        f"has {len(classifier.classes)}: give the run's own."
      )
  source = evaluation.open_images(args.images, space)
  inspection.inspect(source)
  of_run = {"task": classifier.arm.task, "arm": classifier.arm.name}
  try:
    results = of_run | evaluation.evaluate(classifier, source)
  finally:
    end_line()
  if args.json:
    print(json.dumps(results, indent=1))
  else:
    print(f"{of_run['task']}: {of_run['arm']}\n\n{evaluation.table(results)}")


if __name__ == "__main__":
  main()

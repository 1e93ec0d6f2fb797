"""Runs several benchmarks and joins their rows: one table for each device.

  python -m benchmarks.all [NAME...] [--json FILE] [--threads N]

Each runs in a process of its own, as some bind themselves to one core. Failures
are listed at the end, and the rows of the others are kept.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import table

NAMES = ("sample", "encode", "train", "tune", "detect", "input")
ONE_CORE = ("input",)  # have no --threads


def main(argv: list[str] | None = None) -> None:
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = flags.add_argument
  add("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; or all")
  add("--json", help="file to write the rows to")
  add("--threads", type=int, default=0, help="of both sides; 0 is all")
  args = flags.parse_args(argv)
  if unknown := set(args.names) - set(NAMES):
    flags.error(f"found {sorted(unknown)}; choose of {', '.join(NAMES)}")
  rows, failed = [], []
  for name in args.names or NAMES:
    more = [] if name in ONE_CORE else [f"--threads={args.threads}"]
    measured = run(name, more)
    if measured is None:
      failed.append(name)
    rows += measured or []
    if args.json:  # at once, as the next may take long
      pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
  for device in dict.fromkeys(row["device"] for row in rows):
    print()
    table.show([row for row in rows if row["device"] == device])
  if failed:
    sys.exit(f"\nFailed, see above: {', '.join(failed)}.")


def run(name: str, flags: list[str]) -> list[dict] | None:
  """Returns the rows of a benchmark, or None if it failed."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "rows.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={path}"]
    if subprocess.run(command + flags).returncode:
      return None
    return json.loads(path.read_text())


if __name__ == "__main__":
  main()

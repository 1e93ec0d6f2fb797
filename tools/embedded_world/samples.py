r"""Draws the picture of the docs: what the shipped generator draws.

  python -m tools.embedded_world.samples docs/samples.png
  python -m tools.embedded_world.samples grid.png --names=names.txt

The concepts are chosen by chance, and no image is: each column has a real
drawing of the concept, then images of seed 0. With `--names`, the picture has
generated images alone, shuffled, without captions; their names go to that file,
so that someone can say what each shows before looking them up.
"""

import argparse
import pathlib
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthjax.embedded import world
from synthjax.generators import load_generator

COLUMNS = 12
SCALE = 2  # of a drawing, 32 px wide
CAPTION = 26  # pixels for two lines


def choose(count: int, seed: int) -> list[world.Concept]:
  """Chooses concepts that the generator was trained on, without repetition."""
  known = [
    concept
    for concept in world.concepts()
    if concept.subcategory in world.DRAWN and concept.split == "train"
  ]
  order = np.random.default_rng(seed).permutation(len(known))
  return [known[i] for i in order[:count]]


def real_drawings(chosen: list[world.Concept]) -> np.ndarray:
  """Returns one training drawing of each concept: uint8 [n, 32, 32, 3]."""
  source = world.open_split("train")
  first = {}
  for i, (_, _, concept) in enumerate(source.rows):
    first.setdefault(concept, i)
  return np.stack([source[first[concept.id]]["image"] for concept in chosen])


def page(columns: np.ndarray, names: list[str] | None) -> Image.Image:
  """Lays out images [n, rows, h, w, 3] as columns, 12 side by side."""
  count, rows, height, width, _ = columns.shape
  caption = CAPTION if names else 0
  tall, wide = rows * height * SCALE + caption, width * SCALE
  bands = -(-count // COLUMNS)
  sheet = Image.new("RGB", (COLUMNS * wide, bands * tall), "white")
  pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
  for i, column in enumerate(columns):
    x, y = i % COLUMNS * wide, i // COLUMNS * tall
    for row, image in enumerate(column):
      tile = Image.fromarray(image).resize((wide, height * SCALE))
      sheet.paste(tile, (x, y + row * height * SCALE))
    if names:
      text = "\n".join(
        textwrap.wrap(names[i], 12, max_lines=2, placeholder="…")
      )
      middle = (x + wide // 2, y + tall - CAPTION)
      pen.text(middle, text, "black", font, "ma", spacing=1, align="center")
  return sheet


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("picture", type=pathlib.Path)
  parser.add_argument("--names", type=pathlib.Path, help="a file to write")
  parser.add_argument("--columns", type=int, default=24, help="concepts")
  parser.add_argument("--rows", type=int, default=4, help="images of each")
  parser.add_argument("--seed", type=int, default=0, help="of the concepts")
  args = parser.parse_args()

  generator = load_generator("embedded")
  if args.names:
    chosen = choose(2 * args.columns, args.seed + 1)
    names = [concept.name for concept in chosen]
    images = generator.draw([f"a drawing of {n}" for n in names], seed=0)
    columns, captions = images[:, None], None
    args.names.write_text("".join(f"{n}\n" for n in names))
  else:
    chosen = choose(args.columns, args.seed)
    captions = [concept.name for concept in chosen]
    texts = [f"a drawing of {n}" for n in captions for _ in range(args.rows)]
    images = generator.draw(texts, seed=0)
    columns = images.reshape(len(chosen), args.rows, *images.shape[1:])
    columns = np.concatenate([real_drawings(chosen)[:, None], columns], axis=1)
  page(columns, captions).save(args.picture)


if __name__ == "__main__":
  main()

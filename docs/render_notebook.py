"""Runs quick_start.ipynb anew and writes its outputs into it.

python docs/render_notebook.py, after pip install -e ".[docs]"
"""

import pathlib

import nbformat
from nbclient import NotebookClient

NOTEBOOK = pathlib.Path(__file__).parent / "quick_start.ipynb"


def render() -> None:
  """Runs every cell, and keeps what is printed and shown, without the times."""
  book = nbformat.read(NOTEBOOK, as_version=4)
  NotebookClient(book, timeout=600, record_timing=False).execute()
  for cell in book.cells:
    if cell.cell_type != "code":
      continue
    # Progress lines are no result, and one picture is enough.
    cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    for output in cell.outputs:
      output.get("data", {}).pop("image/jpeg", None)
  book.metadata = {
    "kernelspec": {
      "display_name": "Python 3",
      "language": "python",
      "name": "python3",
    },
    "language_info": {"name": "python"},
  }
  nbformat.write(book, NOTEBOOK)


if __name__ == "__main__":
  render()

"""A workdir with made-up artifacts, for tests of what reads them."""

import io
import json

import ml_collections
import numpy as np

from synthjax.data.generated import shards
from synthjax.runtime import artifacts
from synthjax.tasks import report

NAMES = ["land animal", "bird species", "<script>alert('x')</script> & \"co\""]
STRATEGIES = ("basic", "enhanced")
PER_CLASS = 4  # images of each class and strategy
ARMS = ("B CE", "LE+CF SCE")
SEEDS = (0, 1, 2)


def make_config(**fields):
  config = ml_collections.ConfigDict()
  config.tasks, config.seed, config.space = ("report",), 0, "tiny"
  config.report = dict(samples_per_class=2, title="A run", **fields)
  return config


def finish(folder, files):
  """Writes the files of an artifact, name -> bytes, str, rows or an object."""
  artifacts.begin(folder, {"task": folder.name})
  for name, content in files.items():
    if isinstance(content, list):
      content = "".join(json.dumps(row) + "\n" for row in content)
    elif isinstance(content, dict):
      content = json.dumps(content)
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(content)
  rows = {path.name: 1 for path in folder.iterdir() if path.name != "spec.json"}
  artifacts.finish(folder, {"task": folder.name}, rows, seconds=1.5)


def image_rows():
  """Returns the rows of `generate` without images, and p_own of each."""
  rng = np.random.default_rng(0)
  return [
    {
      "id": f"{strategy}-{label}-{i}-s0-0",
      "label": label,
      "strategy": strategy,
      "prompt": f"a drawing of {name}, no. {i}",
      "seed": 7,
      "p_own": float(rng.uniform()),
    }
    for strategy in STRATEGIES
    for label, name in enumerate(NAMES)
    for i in range(PER_CLASS)
  ]


def picture(i, size=32):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_images(folder, size=32):
  artifacts.begin(folder, {"task": folder.name})
  rows = image_rows()
  examples = ({**row, "image": picture(i, size)} for i, row in enumerate(rows))
  shards.write_shard(folder, 0, 1, examples)
  shards.write_dataset_info(
    folder, [len(rows)], dict(enumerate(NAMES)), description="A test."
  )
  finish(folder, {})


def make_prompts(folder):
  rows = [
    {
      "id": f"{strategy}-{label}-{i}",
      "label": label,
      "class_name": name,
      "text": f"a drawing of {name}, no. {i}",
      "strategy": strategy,
    }
    for strategy in STRATEGIES
    for label, name in enumerate(NAMES)
    for i in range(PER_CLASS)
  ]
  finish(folder, {"prompts.jsonl": rows})


def make_scores(folder):
  rows = image_rows()
  file = io.BytesIO()
  np.savez(
    file,
    ids=np.array([row["id"] for row in rows]),
    p_own=np.array([row["p_own"] for row in rows], np.float32),
  )
  finish(folder, {"scores-00000-of-00001.npz": file.getvalue()})


def make_selection(folder):
  rows = image_rows()
  for row in rows:
    row["kept"] = row["p_own"] > 1 / 3
    row["reason"] = "kept" if row["kept"] else "below 1/N"
  finish(folder, {"selection.jsonl": rows})


def accuracy_of(arm, seed):
  return {"test": 0.5 + 0.1 * ARMS.index(arm) + 0.01 * seed, "validation": 0.6}


def make_tuned(folder, **changes):
  rows = [
    {
      "arm": arm,
      "seed": seed,
      "num_images": 24,
      "accuracy": accuracy_of(arm, seed),
    }
    for arm in ARMS
    for seed in SEEDS
  ]
  summary = [
    {
      "arm": arm,
      "split": split,
      "mean": 0.51 + 0.1 * i if split == "test" else 0.6 + 0.1 * i,
      "std": 0.01,
      "stderr": 0.01 / 3**0.5,
      "n": 3,
      "gain": 0.0876 + 0.1 * i,
      "gain_stderr": 0.0058,
    }
    for i, arm in enumerate(ARMS)
    for split in ("test", "validation")
  ]
  results = {
    "space": "tiny",
    "classes": NAMES,
    "zero_shot": {"validation": 0.45, "test": 0.4224},
    "rows": rows,
    "summary": summary,
    "confusion": {
      "test": {
        "zero_shot": [[5, 3, 2], [4, 6, 0], [1, 8, 1]],
        "LE+CF SCE": [[24, 3, 3], [0, 30, 0], [6, 12, 12]],
      }
    },
  } | changes
  file = io.BytesIO()
  np.savez(
    file,
    **{
      f"{arm}, seed {seed}": 2.0 / np.arange(1, 301) + seed
      for arm in ARMS
      for seed in SEEDS
    },
  )
  finish(folder, {"results.json": results, "curves.npz": file.getvalue()})


def make_pretrained(folder):
  losses = [{"step": 10 * i, "loss": 2.0 / i, "lr": 0.1} for i in range(1, 9)]
  finish(folder, {"backbone-s0_metrics.jsonl": losses})


def make_transfer(folder):
  rows = [
    {"init": init, "shots": 16, "seed": seed, "accuracy": base + 0.01 * seed}
    for init, base in (("random", 0.3), ("pretrained", 0.4567))
    for seed in SEEDS
  ]
  finish(folder, {"results.json": {"rows": rows, "summary": []}})


MAKERS = {
  "prompts": make_prompts,
  "generate": make_images,
  "score": make_scores,
  "select": make_selection,
  "tune": make_tuned,
  "pretrain": make_pretrained,
  "transfer": make_transfer,
}


def make_workdir(path, tasks=MAKERS):
  for task in tasks:
    MAKERS[task](path / task)
  return path


def write(workdir, config=None):
  """Runs the task; returns the text of the page and the results."""
  config = config or make_config()
  report.check(config, str(workdir))
  report.run(config, str(workdir))
  folder = workdir / "report"
  assert set(artifacts.load(folder)["files"]) == {"report.html", "results.json"}
  artifacts.verify(folder)
  results = json.loads((folder / "results.json").read_text())
  return (folder / "report.html").read_text("utf-8"), results

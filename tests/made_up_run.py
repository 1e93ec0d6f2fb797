"""A workdir with made-up artifacts, for tests of what reads them."""

import io
import json

import ml_collections
import numpy as np
from PIL import Image

from synthjax.data.generated import shards, tables
from synthjax.detection import average_precision
from synthjax.detection import results as detectors
from synthjax.evals import arms
from synthjax.runtime import artifacts
from synthjax.tasks import report
from synthjax.training import finetune

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


def make_selection(folder, older=False):
  """Writes what `select` does, or what versions with JSON lines did."""
  rows = image_rows()
  for row in rows:
    row["kept"] = row["p_own"] > 1 / 3
    row["reason"] = "kept" if row["kept"] else "below 1/N"
  if older:
    finish(folder, {"selection.jsonl": rows})
    return
  kinds = {"id": "string", "label": "int32", "strategy": "category"}
  kinds |= {"p_own": "float64", "kept": "bool", "reason": "category"}
  columns = {name: [row[name] for row in rows] for name in kinds}
  folder.mkdir(parents=True)
  tables.write(folder / "selection.parquet", kinds, [columns])
  finish(folder, {})


def accuracy_of(arm, seed):
  i = ARMS.index(arm)
  return {"test": 0.5 + 0.1 * i + 0.01 * seed, "validation": 0.6 + 0.1 * i}


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
  zero_shot = {"validation": 0.45, "test": 0.4224}
  results = {
    "space": "tiny",
    "classes": NAMES,
    "num_real": {"test": 30, "validation": 20},
    "zero_shot": zero_shot,
    "rows": rows,
    "summary": arms.summarize(rows, zero_shot),
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
  tested = {
    finetune.Run(init, 16, 0.1, seed): base + 0.01 * seed
    for init, base in (("random", 0.3), ("pretrained", 0.4567))
    for seed in SEEDS
  }
  finish(folder, {"results.json": finetune.summarize(tested, {})})


# --- few-shot methods and tuned encoders -------------------------------------

SPECIES = ["land animal", "bird", "fish"]
METHODS = ("CT w. Syn (RG)", "CT w. init")
SHOTS = (1, 4, 16)
CONFUSION = [[5, 3, 2], [4, 6, 0], [1, 8, 1]]


def accuracy_over_shots(method, shots, seed):
  """Returns shares whose means of three seeds are even, with std 0.01."""
  base = {"CT w. Syn (RG)": 0.50, "CT w. init": 0.40, "RF": 0.45}.get(
    method, 0.3
  )
  gain = 0.1 if method == "CT w. Syn (RG)" else 0.16
  return base + gain * np.log2(shots) / 2 + 0.01 * (seed - 1)


def few_shot_results(methods=METHODS, shots=SHOTS, **changes):
  rows = [
    {
      "arm": arms.label(method, count),
      "method": method,
      "shots": count,
      "seed": seed,
      "num_images": 24,
      "accuracy": {"test": accuracy_over_shots(method, count, seed)},
    }
    for count in shots
    for method in methods
    for seed in SEEDS
  ]
  zero_shot = {"test": 0.42}
  last = rows[-1]["arm"]
  return {
    "space": "tiny",
    "classes": SPECIES,
    "shots": list(shots),
    "methods": list(methods),
    "num_real": {"test": 30},
    "zero_shot": zero_shot,
    "rows": rows,
    "summary": arms.summarize(rows, zero_shot),
    "confusion": {"test": {"zero_shot": CONFUSION, last: CONFUSION}},
  } | changes


def make_few_shot(folder, *args, **changes):
  finish(folder, {"results.json": few_shot_results(*args, **changes)})


TUNED = (
  # name, data, up_to, batch_norm, share, mean accuracy
  ("classifier", "synthetic", "head", "frozen", 0.00027, 0.55),
  ("to attnpool", "synthetic", "attnpool", "frozen", 0.386, 0.54),
  ("all", "synthetic", "stem", "frozen", 1.0, 0.52),
  ("classifier, BN", "synthetic", "head", "batch", 0.00027, 0.45),
  ("real", "real", "head", "frozen", 0.00027, 0.60),
  ("real, BN", "real", "head", "batch", 0.00027, 0.52),
)


def make_encoder(folder, tuned=TUNED, space="tiny"):
  rows = [
    {
      "arm": name,
      "data": data,
      "up_to": up_to,
      "batch_norm": batch_norm,
      "share_tuned": share,
      "seed": seed,
      "accuracy": {"test": mean + 0.01 * (seed - 1)},
    }
    for name, data, up_to, batch_norm, share, mean in tuned
    for seed in SEEDS
  ]
  zero_shot = {"test": 0.42}
  results = {
    "space": space,
    "classes": SPECIES,
    "zero_shot": zero_shot,
    "rows": rows,
    "summary": arms.summarize(rows, zero_shot),
  }
  finish(folder, {"results.json": results})


# --- detectors ----------------------------------------------------------------

SYN, MOCO = "IN-1K Syn, 1.2M", "MoCo IN-1K Syn, 1.2M"
STARTS = {"random": 0.50, SYN: 0.60, MOCO: 0.65}  # AP50 of the first seed
OBJECTS = ["cat", "dog", "<b>sofa</b>"]  # the last has no objects
SIZE = (75, 100)  # height and width
CAT, DOG = [10, 10, 40, 50], [50, 20, 90, 60]
TRUTH = [
  {"box": CAT, "label": "cat", "difficult": False},
  {"box": DOG, "label": "dog", "difficult": True},
]
FOUND = [
  {"box": CAT, "label": "cat", "score": 0.7},
  {"box": [11, 10, 41, 50], "label": "cat", "score": 0.95},
  {"box": DOG, "label": "dog", "score": 0.6},
  {"box": DOG, "label": "cat", "score": 0.2},
]


def detect_results(seeds=SEEDS, **changes):
  """Returns the results of `detect`."""
  tested = {
    detectors.Run(init, seed): average_precision.Measured(
      AP=start / 2,
      AP50=start + 0.01 * seed,
      AP75=start / 2 + 0.02 * seed,
      per_class=np.array([[start], [start + 0.03 * seed], [np.nan]]),
      num_objects=np.array([4, 3, 0]),
    )
    for init, start in STARTS.items()
    for seed in seeds
  }
  found = detectors.summarize(tested, OBJECTS)
  return {"space": "voc", "classes": OBJECTS} | found | changes


def scene(seed=0, size=SIZE):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()


def make_detect(
  folder, examples=2, found=FOUND, size=SIZE, encode=png, **changes
):
  """Writes what `detect` leaves; all first weights see the same images."""
  files = {"results.json": json.dumps(detect_results(**changes)).encode()}
  for init in STARTS:
    for index in range(examples):
      content = {"size": size, "detections": found, "truth": TRUTH}
      stem = f"examples/{init}-{index}"
      files[f"{stem}.json"] = json.dumps(content).encode()
      files[f"{stem}.png"] = encode(scene(index, size))
  artifacts.begin(folder, {"task": "detect"})
  (folder / "examples").mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content)
  artifacts.finish(folder, {"task": "detect"}, dict.fromkeys(files, 1))


# --- whole runs ---------------------------------------------------------------

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

"""The paper's tables as grids of rows and columns, read from a file beside."""

import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_FILE = pathlib.Path(__file__).parent / "paper_tables.json"
ZERO_SHOT = "zero-shot"  # a row
RN50, VIT_B16 = "CLIP-RN50", "CLIP-ViT-B/16"

# The paper's data sets, by our label spaces.
DATA_SETS = {
  "cifar10": "CIFAR-10",
  "cifar100": "CIFAR-100",
  "caltech101": "Caltech101",
  "caltech101_101": "Caltech101",
  "caltech101_102": "Caltech101",
  "caltech256": "Caltech256",
  "imagenet": "ImageNet",
  "imagenet_r": "ImageNet-R",
  "imagenet_sketch": "ImageNet-Sketch",
  "sun397": "SUN397",
  "aircraft": "Aircraft",
  "birdsnap": "Birdsnap",
  "cars": "Cars",
  "cub": "CUB",
  "flowers": "Flower",
  "food": "Food",
  "pets": "Pets",
  "dtd": "DTD",
  "eurosat": "EuroSAT",
  "eurosat_clip": "EuroSAT",
  "eurosat_released": "EuroSAT",
}

# Those for detection, by the name of the data of `detect`.
DETECTION_SETS = {"voc": "PASCAL VOC"}

Values = dict[tuple[str, str], float]  # (row, column) -> share


class Grid(NamedTuple):
  """What a table says of one data set."""

  data: str
  values: Values
  encoder: str = RN50
  approximate: frozenset[tuple[str, str]] = frozenset()
  typical: bool = True  # stands for the paper where we have other data


class Table(NamedTuple):
  """A table of the paper."""

  title: str
  metric: str
  note: str
  grids: tuple[Grid, ...]


def keys() -> list[str]:
  """Returns the names of all tables."""
  return [key for key in _load() if not key.startswith("_")]


def read(key: str) -> Table:
  """Reads one of `keys`."""
  table = _load()[key]
  return Table(
    table["title"],
    table["metric"],
    table.get("note", ""),
    tuple(GRIDS[key](table)),
  )


@functools.cache
def _load() -> dict[str, Any]:
  return json.loads(_FILE.read_text("utf-8"))


# --- from the rows of the file to grids -------------------------------------


def _zero_shot(table: Mapping) -> Iterable[Grid]:
  """Table 1: two encoders on 17 data sets, and their means."""
  for encoder, name in ((RN50, "clip_rn50"), (VIT_B16, "clip_vitb16")):
    values = lambda row, name=name: _shares(
      {
        (ZERO_SHOT, ""): row[name],
        ("LE+CF SCE", ""): row[f"{name}_syn"],
      }
    )
    for row in table["rows"]:
      yield Grid(row["dataset"], values(row), encoder, typical=False)
    yield Grid("mean of the 17 sets", values(table["printed_average"]), encoder)


def _strategies(table: Mapping) -> Iterable[Grid]:
  """Table 2: data sets, strategies and losses."""
  for data in dict.fromkeys(row["dataset"] for row in table["rows"]):
    rows = [row for row in table["rows"] if row["dataset"] == data]
    values = {(ZERO_SHOT, ""): rows[0]["clip_zero_shot"]} | {
      (f"{row['data']} {row['loss']}", ""): row["acc"] for row in rows
    }
    yield Grid(data, _shares(values))


def _one_column(data: str, name: Any, column: str = ""):
  """Returns a reader of a table with one accuracy in each row."""

  def read(table):
    values = {(name(row), column): row["acc"] for row in table["rows"]}
    yield Grid(data, _shares(values))

  return read


def _scratch(table: Mapping) -> Iterable[Grid]:
  """Table 4, with the number that its caption compares with."""
  values = {
    (f"{row['real_shots_per_class']} real per class", ""): row["acc"]
    for row in table["rows"]
  }
  made = table["synthetic_reference"]
  values[f"{made['images_per_class']} generated per class", ""] = made["acc"]
  yield Grid("CIFAR-100", _shares(values), encoder="ResNet-50")


def _batch_norm(row: Mapping) -> str:
  frozen = "frozen" if row["freeze_bn"] else "not frozen"
  return f"{row['train_data'].lower()}, BN {frozen}"


def _phases(table: Mapping) -> Iterable[Grid]:
  """Table 7: orders of training over shots."""
  names = {
    "syn>real": "phase_syn_then_real",
    "real>syn": "phase_real_then_syn",
    "mix": "mix",
  }
  values = {
    (name, str(row["shots"])): row[field]
    for name, field in names.items()
    for row in table["rows"]
  }
  yield Grid("EuroSAT", _shares(values))


def _pretrained(data: str, encoder: str):
  """Returns a reader of Tables 8 to 11: what was trained on, and how much."""

  def name(row):
    words = "" if row["pretrain_data"] == "none" else row["pretrain_data"]
    real = "IN-1K real" if row["init_from_in1k_real"] else ""
    return " + ".join(filter(None, (real, words))) or "random"

  def read(table):
    values = {
      (name(row), row["syn_images"]): row["value"] for row in table["rows"]
    }
    yield Grid(data, _shares(values), encoder)

  return read


def _by_field(data: str, name: Any, columns: Mapping[str, str]):
  """Returns a reader of a table whose columns are fields of its rows."""

  def read(table):
    values = {
      (name(row), column): row[field]
      for row in table["rows"]
      for field, column in columns.items()
    }
    yield Grid(data, _shares(values))

  return read


def _prompts(table: Mapping) -> Iterable[Grid]:
  """Table A.15: simple prompts against those of CLIP's paper."""
  names = {
    "CLIP's paper": "clip_paper_rn50",
    "simple prompt": "rn50_simple",
    "simple prompt, tuned": "rn50_simple_syn",
    "CLIP's prompts": "rn50_clip_prompts",
    "CLIP's prompts, tuned": "rn50_clip_prompts_syn",
  }
  values = lambda row: _shares({(n, ""): row[f] for n, f in names.items()})
  for row in table["rows"]:
    yield Grid(row["dataset"], values(row), typical=False)
  yield Grid("mean of 13 sets", values(table["printed_average"]))


def _quality(row: Mapping) -> str:
  return f"{row['setting']}, {row['data']}"


def _figure1(table: Mapping) -> Iterable[Grid]:
  """Figure 1; its Tip-Adapter is Tip-Adapter-F."""
  names = {
    "ct_w_syn": "CT w. Syn",
    "ct_w_init": "CT w. init",
    "tip_adapter": "Tip-Adapter-F",
    "coop": "CoOp",
  }
  for data, each in table["data"].items():
    curves = {names[field]: curve for field, curve in each["curves"].items()}
    shots = sorted({int(x) for curve in curves.values() for x in curve})
    values = {(ZERO_SHOT, str(x)): each["clip_zero_shot"] for x in shots} | {
      (name, x): share
      for name, curve in curves.items()
      for x, share in curve.items()
    }
    about = {
      (names[field], x) for field, xs in each["approx"].items() for x in xs
    }
    yield Grid(data, _shares(values), approximate=frozenset(about))


def _tip_adapter(table: Mapping) -> Iterable[Grid]:
  names = {
    "Tip-Adapter": "tip_adapter",
    "Tip-Adapter-F": "tip_adapter_f",
    "CLIP-Adapter": "clip_adapter",
  }
  for data, each in table["data"].items():
    shots = [str(x) for x in each["shots"]]
    values = {(ZERO_SHOT, x): each["clip_zero_shot"] for x in shots} | {
      (name, x): share
      for name, field in names.items()
      for x, share in zip(shots, each[field], strict=True)
    }
    yield Grid(data, _shares(values), typical=data == "EuroSAT")


def _shares(values: Mapping[tuple[str, str], float]) -> Values:
  """Divides percent by 100, as all our accuracies are shares."""
  return {at: value / 100 for at, value in values.items()}


_images = lambda row: f"{row['syn_per_class']} per class"
GRIDS = {
  "table1": _zero_shot,
  "table2": _strategies,
  "table3": _one_column(
    "EuroSAT", lambda row: f"{row['param_tuned_percent']:g} %"
  ),
  "table4": _scratch,
  "table5": _one_column("EuroSAT", lambda row: row["strategy"], "16"),
  "table6": _one_column("EuroSAT", _batch_norm),
  "table7": _phases,
  "table8": _pretrained("CIFAR-100", "ResNet-50"),
  "table9": _pretrained("CIFAR-100", "DeiT-S"),
  "table10": _pretrained("PASCAL VOC", "ResNet-50"),
  "table11": _pretrained("PASCAL VOC", "ResNet-50"),
  "A12": _by_field(
    "ImageNet",
    lambda row: row["method"],
    {
      "imagenet": "on ImageNet",
      "imagenet_sketch": "on ImageNet-Sketch",
      "synthetic": "on generated",
    },
  ),
  "A13": _one_column("CIFAR-10", _images),
  "A14": _one_column("EuroSAT", _images, "16"),
  "A15": _prompts,
  "A16": _by_field("EuroSAT", _quality, {"fid": "FID", "acc": "accuracy"}),
  "figure1": _figure1,
  "tip_adapter": _tip_adapter,
}

"""Ranks generators, guidance and prompts by what a few images of each teach.

Every candidate draws as many images, in a workdir of its own in `candidates`,
by the tasks BEFORE. A head learns from what the filter keeps of them. The best
one on validation images is chosen, and only its heads see the test images.
"""

import dataclasses
import datetime
import pprint
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, heads, linear_head
from synthjax.adapt.feature_sets import Features
from synthjax.adapt.linear_head import Head
from synthjax.config import schema
from synthjax.config.schema import Block, Count, Flag, Seeds, Text
from synthjax.data.generated import filters
from synthjax.data.real import real_images
from synthjax.encoders import check_texts, load_encoder
from synthjax.evals import accuracy, diversity, image_quality, ranking
from synthjax.evals.arms import ZERO_SHOT
from synthjax.generators import block_of, check_generator
from synthjax.labels import spaces
from synthjax.runtime import artifacts, timings
from synthjax.runtime.errors import UserError, gathered, unknown_names
from synthjax.runtime.progress import counter, say
from synthjax.weights import files as weight_files

BEFORE = ("prompts", "generate", "score", "select")  # of each candidate
# Trains a network on each, too, if the config has its block.
_NETWORK = "pretrain"
CONFIG = "best.py"  # of the big run
FOLDER = "candidates"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """What differs from the config; what is left out is the config's."""

  name: Text
  generator: Block | None = None
  prompts: Block | None = None

  def blocks(self) -> dict[str, Any]:
    """Returns the blocks that stand in place of the config's."""
    fields = dataclasses.asdict(self)
    return {k: v for k, v in fields.items() if k != "name" and v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bakeoff(linear_head.Training):
  """The block `config.bakeoff`."""

  candidates: Annotated[tuple[Candidate, ...], schema.unique_names(ZERO_SHOT)]
  # Of the heads, and of the images that each learns from, if these are drawn
  # with several: then intervals are of the drawing, too.
  seeds: Seeds
  validation: Block  # real images that rank
  test: Block | None = None  # real images, opened once, for the best alone
  neighbours: Count = 5  # to which the balls of coverage reach
  # Leaves out candidates whose generator cannot be loaded, and lists them.
  skip_refused: Flag = False
  # Blocks of the run that CONFIG is, whose fields stand in place of ours. Arms
  # of `tune` have the strategy of the best candidate.
  big_run: Mapping[str, Block] = dataclasses.field(default_factory=dict)

  def problems(self) -> Iterable[str]:
    stems = [artifacts.file_stem(each.name) for each in self.candidates]
    if len({*stems} - {""}) < len(stems):
      yield (
        f"the candidates would have the folders {stems}: give them names that "
        "differ in letters and digits"
      )


FIELDS = Bakeoff


def before(
  config: ConfigDict, workdir: str
) -> Iterator[tuple[ConfigDict, str]]:
  """Yields the config and the workdir of each candidate."""
  tasks = (*BEFORE, *([_NETWORK] if _NETWORK in config else []))
  for each in _taking_part(config):
    blocks = config.to_dict() | each.blocks() | {"tasks": tasks, "also": {}}
    yield ConfigDict(blocks), str(_home(workdir, each))


def after(config: ConfigDict, workdir: str) -> Iterator[tuple[ConfigDict, str]]:
  """Yields the config of the big run, as of the first candidate."""
  for each in _taking_part(config)[:1]:
    fields = schema.read(Bakeoff, config.bakeoff, "config.bakeoff")
    folder = epath.Path(workdir) / "bakeoff" / CONFIG
    blocks = _big_run(config, fields, each)
    if block := blocks.get("export"):  # its user may run this task as well
      formats = block.get("formats") or None
      blocks["export"] = block | {"formats": formats}
      blocks["tasks"] += ("export",)
    yield ConfigDict(blocks), str(folder)


def _taking_part(config: ConfigDict) -> list[Candidate]:
  """Returns the candidates; none of a block that `check` refuses."""
  if schema.problems(Bakeoff, config.get("bakeoff"), "config.bakeoff"):
    return []
  fields = schema.read(Bakeoff, config.bakeoff, "config.bakeoff")
  refused = _refused(config, fields)
  return [each for each in fields.candidates if each.name not in refused]


def _home(workdir: epath.PathLike, candidate: Candidate) -> epath.Path:
  stem = artifacts.file_stem(candidate.name)
  return epath.Path(workdir) / FOLDER / stem


def _refused(config: ConfigDict, fields: Bakeoff) -> dict[str, str]:
  """Returns why candidates are left out, by their names."""
  refused: dict[str, str] = {}
  for each in fields.candidates if fields.skip_refused else ():
    try:
      check_generator(**_block(config, each, "generator"))
    except UserError as error:
      refused[each.name] = str(error)
  return refused


def _strategy(config: ConfigDict, candidate: Candidate) -> str:
  """Returns the strategy of a candidate's prompts, which is one."""
  (strategy,) = _block(config, candidate, "prompts")["strategies"]
  return strategy


def _block(config: ConfigDict, candidate: Candidate, name: str) -> dict:
  return candidate.blocks().get(name) or config[name].to_dict()


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields; `before` has the candidates' own tasks check them."""
  del workdir
  fields = schema.read(Bakeoff, config.bakeoff, "config.bakeoff")
  refused = _refused(config, fields)
  for name, why in refused.items():
    say(f"bakeoff: {name} is left out: {why}")
  if len(refused) == len(fields.candidates):
    raise UserError(*refused.values())
  with gathered() as attempt:
    attempt(check_texts, config.space, config.encoder.to_dict())
    space = spaces.load_space(config.space)
    for split, block in _splits(fields).items():
      attempt(real_images.check_real, block, space, f"config.bakeoff.{split}")
    attempt(_check_drawings, config, fields)
    attempt(_check_blocks, config, fields)


def _check_drawings(config: ConfigDict, fields: Bakeoff) -> None:
  """Checks the seeds, and that each candidate's images are of one strategy."""
  problems, drawn = [], tuple(config.generate.get("seeds") or ())
  if len(drawn) > 1 and {*fields.seeds} - {*drawn}:
    problems.append(
      f"config.bakeoff.seeds={fields.seeds} are heads of images of their own "
      f"seed, but these are drawn with the seeds {drawn}: give seeds among "
      "those, or draw with one."
    )
  for each in fields.candidates:
    strategies = _block(config, each, "prompts").get("strategies") or ()
    if len(strategies) != 1:
      problems.append(
        f"The candidate {each.name!r} has the prompt strategies "
        f"{tuple(strategies)}: give it one; others are candidates of their own."
      )
  if problems:
    raise UserError(*problems)


def _check_blocks(config: ConfigDict, fields: Bakeoff) -> None:
  """Checks the names in `big_run`; `after` has its tasks check the fields."""
  read = {*BEFORE, "tune", "report", "export", "generator", "encoder"}
  read |= {name for name, value in config.items() if hasattr(value, "items")}
  read -= {"bakeoff", _NETWORK}
  if unknown := sorted({*fields.big_run} - read):
    raise unknown_names("block (of config.bakeoff.big_run)", unknown, read)


def _splits(fields: Bakeoff) -> dict[str, Block]:
  splits = {"validation": fields.validation, "test": fields.test}
  return {name: block for name, block in splits.items() if block}


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, `heads.safetensors` and CONFIG."""
  fields = schema.read(Bakeoff, config.bakeoff, "config.bakeoff")
  folder = epath.Path(workdir) / "bakeoff"
  space = spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  refused, splits = _refused(config, fields), _splits(fields)
  candidates = _taking_part(config)
  homes = {each.name: _home(workdir, each) for each in candidates}
  block = config.bakeoff.to_dict()
  for name in ("candidates", "skip_refused"):  # their images decide
    block.pop(name, None)
  tasks = ["select", *([_NETWORK] if _NETWORK in config else [])]
  inputs = [f"{FOLDER}/{x.name}/{t}" for x in homes.values() for t in tasks]
  spec = feature_sets.specification(
    "bakeoff", block, workdir, encoder, space, inputs
  )
  for home in homes.values():
    feature_sets.check_scores(home, encoder, space)
  if artifacts.begin(folder, spec):
    return
  encode = partial(
    feature_sets.encode_real, space=space, encoder=encoder, folder=folder
  )
  validation, files = encode(splits["validation"])
  learned, figures, zero_shot = {}, {}, None
  report_progress = counter("bakeoff", len(candidates), unit="candidates")
  for each in candidates:
    home, name = homes[each.name], each.name
    scored = feature_sets.read_scored(home, filtered=True)
    strategy, zero_shot = _strategy(config, each), scored.zero_shot
    sets = {
      seed: _images_of(scored, strategy, seed, space.class_names)
      for seed in fields.seeds
    }
    learned[name] = {
      seed: linear_head.learn(images, zero_shot, fields, seed)
      for seed, images in sets.items()
    }
    passed = filters.beats_chance(scored.images.p_own, len(space.classes))
    figures[name] = (
      {"drawn": len(passed), "kept": int(scored.kept.sum())}
      | {"passed": float(passed.mean())}
      | _diversity([*sets.values()], validation[0], len(space.classes), fields)
      | _cost(home, _block(config, each, "generator"))
    )
    report_progress(note=name)
  right = {
    name: np.stack([_is_right(head, validation) for head in by_seed.values()])
    for name, by_seed in learned.items()
  }
  ranked = ranking.rank(right)
  best = ranked[0]["arm"]
  results: dict[str, Any] = {
    "space": space.name,
    "classes": list(space.class_names),
    "rows": [
      {"arm": name, "seed": seed, "accuracy": {"validation": float(x.mean())}}
      for name, of_seeds in right.items()
      for seed, x in zip(fields.seeds, of_seeds, strict=True)
    ],
    "validation": _measured(zero_shot, validation),
    "ranked": [row | figures[row["arm"]] for row in ranked],
    "refused": refused,
  }

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = None
  if "test" in splits:
    opened_at = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    test, rows = encode(splits["test"])
    files |= rows
    shares = [_is_right(head, test).mean() for head in learned[best].values()]
    of_best = accuracy.summarize(shares)._asdict()
    results["test"] = _measured(zero_shot, test) | of_best
  chosen = next(each for each in candidates if each.name == best)
  with artifacts.replace(folder, CONFIG) as path:
    path.write_text(_source(config, fields, chosen))
  files |= heads.save(
    folder,
    zero_shot,
    learned,
    space.class_names,
    {"config": config.encoder.to_dict(), "identity": encoder.identity},
  )
  files |= accuracy.write(folder, results) | {CONFIG: 1}
  order = [row["arm"] for row in ranked]
  artifacts.finish(folder, spec, files, test_opened_at=opened_at, learned=order)
  print(ranking.table(results), flush=True)
  say(f"bakeoff: the big run of {best!r}: --config={folder / CONFIG}")


def _images_of(
  scored: feature_sets.Scored,
  strategy: str,
  seed: int,
  class_names: Sequence[str],
) -> Features:
  """Returns what the filter kept of the images of a seed, or the only one."""
  images = scored.images
  _, rows = filters.images_of(
    images,
    strategy=strategy,
    seed=seed,
    kept=scored.kept,
    class_names=class_names,
  )
  return images.features[rows].astype(np.float32), images.labels[rows]


# --- what is compared ---------------------------------------------------------


def _is_right(head: Head, images: Features) -> np.ndarray:
  """Returns which images [n] a head classifies right."""
  features, labels = images
  return np.asarray(head(features)).argmax(-1) == labels


def _measured(zero_shot: Head, images: Features) -> dict[str, Any]:
  right = _is_right(zero_shot, images)
  return {"images": len(right), ZERO_SHOT: float(right.mean())}


def _diversity(
  sets: Sequence[Features], real: np.ndarray, num_classes: int, fields: Bakeoff
) -> dict[str, float | None]:
  """Measures how images of a class vary, and what they cover of real ones.

  Both grow with the number of images, so that the set of one seed stands for
  all.
  """
  features, labels = sets[0]
  vendi = diversity.within_classes(features, labels, num_classes)["vendi"]
  known, coverage = [value for value in vendi if value is not None], None
  if min(len(features), len(real)) > fields.neighbours:
    coverage = image_quality.compare_manifolds(
      real, features, k=fields.neighbours
    ).coverage
  return {
    "vendi": float(np.mean(known)) if known else None,
    "coverage": coverage,
  }


def _cost(home: epath.Path, generator: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what an image cost, on which devices, and under which licences."""
  drawn = artifacts.load(home / "generate")["spec"]["generator"]
  described = weight_files.identified(drawn, block_of(**generator), "generator")
  licences = dict.fromkeys(each["licence"] for each in described)
  records = timings.read(home)
  drawing = [r for r in records if r.get("seconds_per_image")]
  last = drawing[-1] if drawing else {}
  network = {}
  if (home / _NETWORK / artifacts.MANIFEST).exists():
    shares = artifacts.load(home / _NETWORK)["summary"]["validation"].values()
    network = {"network": accuracy.summarize([*shares])._asdict()}
  return {
    "seconds_per_image": last.get("seconds_per_image"),
    "seconds": sum(r.get("seconds") or 0 for r in records),  # of all tasks
    "devices": f"{last['devices']} x {last['device']}" if last else None,
    "folder": f"{FOLDER}/{home.name}",
    "licences": [licence or "not known" for licence in licences],
  } | network


# --- the config of the big run ------------------------------------------------


def _big_run(
  config: ConfigDict, fields: Bakeoff, candidate: Candidate
) -> dict[str, Any]:
  """Returns the blocks of the run that a candidate would have."""
  first = {"tasks": (*BEFORE, "tune", "report"), "seed": config.seed}
  blocks = config.to_dict() | candidate.blocks()
  for name in ("tasks", "bakeoff", _NETWORK):
    blocks.pop(name, None)
  blocks = first | blocks
  blocks = _merged(blocks, fields.big_run)
  if tuned := blocks.get("tune"):
    strategy, *_ = blocks["prompts"].get("strategies") or [None]
    strategy = {"strategy": strategy}
    arms = tuple(strategy | {**arm} for arm in tuned.get("arms", ()))
    blocks["tune"] = tuned | {"arms": arms}
  return blocks


def _merged(block: Any, other: Any) -> Any:
  """Returns a block with the fields of another in place of its own."""
  if not (isinstance(block, dict) and isinstance(other, dict)):
    return other
  return block | {k: _merged(block.get(k), v) for k, v in other.items()}


def _source(config: ConfigDict, fields: Bakeoff, candidate: Candidate) -> str:
  """Returns the text of the config of a candidate's big run."""
  blocks = pprint.pformat(
    _big_run(config, fields, candidate), width=76, sort_dicts=False
  ).replace("\n", "\n    ")
  return f'''r"""The big run of the best of a bake-off, which wrote this file.

  python -m synthjax.main --config=THIS_FILE --workdir=$OUT
"""

import ml_collections

from synthjax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  parse_arg(arg)  # it takes none
  # The best of {len(fields.candidates)} candidates: {candidate.name!r}.
  return ml_collections.ConfigDict(
    {blocks}
  )
'''

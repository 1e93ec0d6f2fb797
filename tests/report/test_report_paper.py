"""Our numbers stand beside the paper's, each beside its own."""

import json
import pathlib

import pytest
from made_up_run import (
  ARMS,
  METHODS,
  make_config,
  make_encoder,
  make_few_shot,
  make_transfer,
  make_tuned,
  write,
)
from report_page import TO, Page

from synthjax import main
from synthjax.report import paper_comparison
from synthjax.runtime.errors import UserError
from synthjax.tasks import report

ROOT = pathlib.Path(__file__).parents[2]
RN50 = {"weights": "released:clip_rn50/clip.safetensors"}


def run(workdir, *tables, space="emoji16", encoder=None):
  config = make_config(paper=tables)
  config.space = space
  if encoder:
    config.encoder = encoder
  html, results = write(workdir, config)
  return Page(html), {found["key"]: found for found in results["paper"]}


def cells(found):
  return {(cell["row"], cell["column"]): cell for cell in found["cells"]}


# --- the tables themselves --------------------------------------------------


@pytest.mark.parametrize("key", paper_comparison.keys())
def test_every_table_can_be_read(key):
  table = paper_comparison.read(key)
  assert table.title and table.metric
  assert any(grid.typical for grid in table.grids)
  for grid in table.grids:
    assert grid.values
    assert all(
      0 < share < 1 for at, share in grid.values.items() if "0 " not in at[0]
    )
    assert grid.approximate <= grid.values.keys()


@pytest.mark.parametrize(
  ("key", "data", "at", "percent"),
  [
    ("table1", "EuroSAT", ("LE+CF SCE", ""), 55.37),
    ("table2", "CIFAR-100", ("LE SCE", ""), 44.91),
    ("table3", "EuroSAT", ("0.02 %", ""), 55.37),
    ("table4", "CIFAR-100", ("500 generated per class", ""), 28.74),
    ("table5", "EuroSAT", ("RG", "16"), 88.47),
    ("table6", "EuroSAT", ("syn, BN not frozen", ""), 44.73),
    ("table7", "EuroSAT", ("real>syn", "8"), 83.99),
    ("table8", "CIFAR-100", ("C100 Syn", "3.6M"), 85.24),
    ("table9", "CIFAR-100", ("IN-2K Syn", "4.0M"), 88.91),
    ("table10", "PASCAL VOC", ("IN-1K real + IN-2K Syn", "2.4M"), 81.87),
    ("table11", "PASCAL VOC", ("random", "0"), 66.08),
    ("A12", "ImageNet", ("end-to-end", "on ImageNet"), 76.17),
    ("A13", "CIFAR-10", ("4000 per class", ""), 80.08),
    ("A14", "EuroSAT", ("400 per class", "16"), 88.28),
    ("A15", "DTD", ("CLIP's prompts", ""), 41.31),
    ("A16", "EuroSAT", ("few-shot, RG", "FID"), 37.18),
    ("figure1", "EuroSAT", ("CT w. init", "4"), 74.5),
    ("tip_adapter", "Pets", ("Tip-Adapter-F", "16"), 89.7),
  ],
)
def test_a_number_of_each_table_is_in_its_place(key, data, at, percent):
  grids = [
    grid for grid in paper_comparison.read(key).grids if grid.data == data
  ]
  assert grids[0].values[at] == pytest.approx(percent / 100)


def test_the_data_sets_are_our_label_spaces_and_the_papers():
  from synthjax.labels import spaces

  data_sets = paper_comparison.data_sets().items()
  images = {space: name for space, name in data_sets if space != "voc"}
  assert images.keys() <= set(spaces.built_in_spaces())
  in_table1 = {
    grid.data
    for grid in paper_comparison.read("table1").grids
    if not grid.typical
  }
  assert {*images.values()} == in_table1


@pytest.mark.parametrize("key", paper_comparison.keys())
def test_arms_and_references_are_about_rows_that_exist(key):
  table = paper_comparison.read(key)
  rows = {row for grid in table.grids for row, _ in grid.values}
  cells = {f"{row}, {x}" for grid in table.grids for row, x in grid.values}
  assert table.arms.keys() <= rows | cells
  references = {row: table.reference_of(row) for row in rows}
  assert {*references.values()} <= rows | {None}


# --- beside ours ------------------------------------------------------------


def test_other_data_are_marked_and_stand_beside_every_set(tmp_path):
  make_tuned(tmp_path / "tune")
  page, found = run(tmp_path, "table2")
  words = "other data: compare the differences, not the values"
  assert found["table2"]["remark"] == words and words in "".join(page.text)
  rows = page.table("Table 2")
  sets = ["paper, CIFAR-10", "paper, CIFAR-100", "paper, EuroSAT"]
  assert rows[0] == ["row", *sets, "ours, tiny", "our arm", "seeds"]
  assert rows[1] == [
    "zero-shot",
    *("70.31", "35.35", "37.51"),
    "42.24",
    "zero-shot",
    "–",
  ]
  # Seeds of 0.50, 0.51 and 0.52, and zero-shot 0.4224.
  assert rows[2] == [
    "B CE",
    "77.39 +7.08",
    "43.99 +8.64",
    "45.64 +8.13",
    f"51.00 48.5{TO}53.5 +8.76 (+6.3{TO}+11.2)",
    "B CE",
    "3",
  ]
  assert [row[4] for row in rows[3:7]] == ["not run"] * 4
  assert rows[7][0] == ARMS[1] and rows[7][4].startswith("61.00")


def test_the_same_data_stand_alone_without_a_remark(tmp_path):
  make_tuned(tmp_path / "tune", space="eurosat")
  page, found = run(tmp_path, "table2", space="eurosat", encoder=RN50)
  assert not found["table2"]["remark"]
  assert page.table("Table 2")[0][1:3] == ["paper, EuroSAT", "ours, eurosat"]


def test_the_paper_has_two_encoders_and_ours_is_one(tmp_path):
  make_tuned(tmp_path / "tune", space="eurosat")
  vit = {"weights": "released:clip_vit_b16/clip.safetensors"}
  page, found = run(tmp_path, "table1", "table2", space="eurosat", encoder=vit)
  assert not found["table1"]["remark"]
  assert page.table("Table 1")[1][:2] == ["zero-shot", "47.77"]
  assert found["table2"]["remark"].startswith("other encoder")


def test_an_unknown_encoder_stands_beside_both(tmp_path):
  make_tuned(tmp_path / "tune", space="eurosat")
  page, _ = run(tmp_path, "table1", space="eurosat")
  assert page.table("Table 1")[0][1:3] == [
    "paper, EuroSAT, CLIP-RN50",
    "paper, EuroSAT, CLIP-ViT-B/16",
  ]


def test_orders_of_training_stand_beside_theirs_at_each_number(tmp_path):
  make_few_shot(tmp_path / "few_shot", [*METHODS, "RG, syn>real"])
  page, found = run(tmp_path, "table7")
  of = cells(found["table7"])
  assert of["mix", "16"]["arm"] == "CT w. Syn (RG)"
  assert of["mix", "16"]["ours"]["mean"] == pytest.approx(0.70)
  # By seed the two differ by as much: its interval has no width.
  difference = of["syn>real", "4"]["difference"]
  assert difference["mean"] == pytest.approx(0.46 - 0.60)
  assert difference["low"] == pytest.approx(difference["high"])
  assert of["syn>real", "2"]["ours"] is None  # these shots were not run
  assert of["real>syn", "16"]["ours"] is None
  rows = page.table("Table 7")
  assert rows[0][2:] == ["1 shot", *(f"{n} shots" for n in (2, 4, 8, 16))]
  assert rows[1][:3] == ["syn>real", "paper, EuroSAT", "63.01 −1.35"]
  assert rows[2][1] == "ours, tiny (RG, syn>real)" and rows[2][3] == "not run"


def test_strategies_are_compared_at_sixteen_shots(tmp_path):
  make_few_shot(tmp_path / "few_shot", ["B (LE+CF)", "RF", METHODS[0]])
  _, found = run(tmp_path, "table5")
  of = cells(found["table5"])
  means = {row: cell["ours"]["mean"] for (row, _), cell in of.items()}
  assert means == pytest.approx({"B": 0.62, "RF": 0.77, "RG": 0.70})
  assert of["RG", "16"]["difference"]["mean"] == pytest.approx(0.08)
  assert of["RG", "16"]["paper_difference"]["EuroSAT"] == pytest.approx(0.0137)


def test_figure_1_is_drawn_twice_and_starts_with_generated_images(tmp_path):
  make_few_shot(tmp_path / "few_shot", [*METHODS, "CoOp"], space="eurosat")
  make_tuned(tmp_path / "tune", space="eurosat")
  page, found = run(tmp_path, "figure1", space="eurosat", encoder=RN50)
  of = cells(found["figure1"])
  assert of["CT w. Syn", "0"]["arm"] == "LE+CF SCE"
  assert of["CT w. init", "4"]["approximate"] == ["EuroSAT"]
  assert of["CT w. init", "0"]["paper"] == {"EuroSAT": None}
  assert of["zero-shot", "1"]["ours"]["mean"] == 0.42
  rows = {tuple(row[:2]): row for row in page.table("Figure 1")}
  assert rows["CT w. init", "paper, EuroSAT"][4:6] == ["63.14", "≈ 74.50"]
  assert rows["CT w. init", "ours, eurosat"][2:4] == [
    "–",
    f"40.00 37.5{TO}42.5",
  ]
  assert rows["Tip-Adapter-F", "ours, eurosat"][3] == "not run"
  printed = [kind for kind in page.of("path", "printed") if "d" in kind]
  # Four curves of the paper, and their four names.
  assert len(printed) == 8
  text = "".join(page.text)
  assert "Ours, eurosat" in text and "The paper's, EuroSAT" in text


def test_the_ladder_has_rows_of_its_own(tmp_path):
  make_encoder(tmp_path / "tune_encoder")
  _, found = run(tmp_path, "table3")
  arms = {row: cell["arm"] for (row, _), cell in cells(found["table3"]).items()}
  assert [row for row in arms if arms[row]] == [
    "0 %",
    "0.02 %",
    "38.6 %",
    "100 %",
  ]
  assert arms["0.02 %"] == "classifier"
  of = cells(found["table3"])["38.6 %", ""]
  assert of["paper"] == {"EuroSAT": None}
  assert of["difference"]["mean"] == pytest.approx(-0.01)
  shares = [float(row.split()[0]) for row in arms]
  assert shares == sorted(shares)


def test_batch_norm_is_compared_on_the_same_images(tmp_path):
  make_encoder(tmp_path / "tune_encoder")
  page, found = run(tmp_path, "table6")
  of = {row: cell for (row, _), cell in cells(found["table6"]).items()}
  assert {row: cell["arm"] for row, cell in of.items()} == {
    "real, BN not frozen": "real, BN",
    "real, BN frozen": "real",
    "syn, BN not frozen": "classifier, BN",
    "syn, BN frozen": "classifier",
  }
  assert of["syn, BN frozen"]["difference"]["mean"] == pytest.approx(0.10)
  assert of["real, BN frozen"]["paper_difference"] == pytest.approx(
    {"EuroSAT": 0.1032}
  )
  assert page.table("Table 6")


def test_a_config_says_beside_which_row_its_weights_stand():
  """No name of ours tells the label space, the amount and the first weights."""
  row = lambda init, share: dict(init=init, shots=None, seed=0, accuracy=share)
  results = {"transfer": {"rows": [row("random", 0.5), row("pretrained", 0.7)]}}
  found = paper_comparison.find(
    "table8", results, {"pretrained": "C100 Syn, 2.4M"}
  )
  assert found["C100 Syn", "2.4M"].by_seed == {0: 0.7}
  assert found["random", "0"].by_seed == {0: 0.5}
  compared = paper_comparison.compare(
    "table8",
    results,
    space="cifar100",
    encoder=None,
    rows={"pretrained": "C100 Syn, 2.4M"},
  )
  (cell,) = [c for c in compared["cells"] if c["arm"] == "pretrained"]
  assert cell["paper"] == pytest.approx({"CIFAR-100": 0.8503})
  assert round(cell["difference"]["mean"], 3) == 0.2


def test_clips_prompts_stand_beside_their_own_columns():
  """The same arm, of which a config says that it averages templates."""
  rows = [{"arm": "LE+CF SCE", "seed": 0, "accuracy": {"test": 0.8}}]
  results = {"tune": {"rows": rows, "zero_shot": {"test": 0.7}}}
  find = lambda **given: paper_comparison.find("A15", results, given)
  assert find()["simple prompt", ""].by_seed == {None: 0.7}
  assert find()["simple prompt, tuned", ""].by_seed == {0: 0.8}
  config = main.load_config(
    str(ROOT / "configs" / "zeroshot.py") + ":templates=ensemble"
  )
  found = find(**config.report.paper_rows)
  assert found["CLIP's prompts", ""].by_seed == {None: 0.7}
  assert found["CLIP's prompts, tuned", ""].by_seed == {0: 0.8}
  assert ("simple prompt", "") not in found


def test_arms_of_table_a12_stand_in_its_columns():
  config = main.load_config(
    str(ROOT / "configs" / "tune_encoder.py") + ":table=A12"
  )
  rows = [
    {"arm": arm["name"], "seed": 0, "accuracy": {"test": share}}
    for share, arm in enumerate(config.tune_encoder.arms)
  ]
  found = paper_comparison.find("A12", {"tune_encoder": {"rows": rows}})
  at = {place: ours.by_seed[0] for place, ours in found.items() if place[1]}
  assert at == {
    ("classifier tuning", "on generated"): 0,
    ("end-to-end", "on generated"): 1,
    ("classifier tuning", "on ImageNet"): 2,
    ("end-to-end", "on ImageNet"): 3,
  }


def test_the_quality_of_images_stands_beside_table_a16():
  sets = lambda name, share: {
    "all": {"figures": {name: share}},
    "kept": {"figures": {name: share + 1}},
  }
  inception = {"identity": {"encoder": "inception"}}
  card = {"quality": {"sets": sets("top1", 0.25)}}
  card["quality"]["encoders"] = [inception | {"sets": sets("frechet", 80.0)}]
  results = {"card": card, "prompts": {"by_strategy": {"enhanced": 9}}}
  found = paper_comparison.find("A16", results)
  assert {place: ours.by_seed[None] for place, ours in found.items()} == {
    ("zero-shot, LE", "accuracy"): 0.25,
    ("zero-shot, LE", "FID"): 0.8,
    ("zero-shot, LE+CF", "accuracy"): 1.25,
    ("zero-shot, LE+CF", "FID"): 0.81,
  }
  # Of two strategies, the figures of all images are of neither.
  results["prompts"]["by_strategy"]["basic"] = 9
  assert not paper_comparison.find("A16", results)


def test_random_weights_of_a_transfer_stand_beside_the_papers(tmp_path):
  make_transfer(tmp_path / "transfer")
  _, found = run(tmp_path, "table4", "table8")
  cell = cells(found["table4"])["16 real per class", ""]
  assert cell["arm"] == "random" and cell["ours"]["mean"] == pytest.approx(0.31)
  # Those have seen 16 images of each class, not all.
  assert cells(found["table8"])["random", "0"]["arm"] is None


@pytest.mark.parametrize("key", paper_comparison.keys())
def test_without_anything_run_all_is_not_run(tmp_path, key):
  page, found = run(tmp_path, key)
  assert all(cell["ours"] is None for cell in found[key]["cells"])
  assert "not run" in page.text
  json.dumps(found, allow_nan=False)


# --- what is asked for ------------------------------------------------------


@pytest.mark.parametrize(
  ("tables", "message"),
  [
    (("tabel2",), "did you mean 'table2'"),
    (("table2", "figure2"), "did you mean 'figure1'"),
    (("_about",), r"paper\[0\]='_about': needed one of table1, "),
    ("table2", r"needed a tuple"),
    (3, r"needed a tuple"),
  ],
)
def test_unknown_tables_are_refused(tmp_path, tables, message):
  with pytest.raises(UserError, match=message):
    report.check(make_config(paper=tables), str(tmp_path))


def test_another_choice_of_tables_writes_the_page_again(tmp_path):
  _, found = run(tmp_path, "table2")
  assert [*found] == ["table2"]
  _, found = run(tmp_path, "table2", "table5")
  assert [*found] == ["table2", "table5"]


def test_without_tables_there_is_no_section(tmp_path):
  make_tuned(tmp_path / "tune")
  html, results = write(tmp_path)
  assert results["paper"] == [] and "Ours beside" not in html

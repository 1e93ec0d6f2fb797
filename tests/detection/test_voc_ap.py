"""Average precision, recorded and counted by hand, and VOC's text files."""

import numpy as np
import pytest

from synthjax.detection import average_precision, voc_files
from synthjax.detection.average_precision import Detections, Truth
from synthjax.runtime.errors import UserError

BOX = (10.0, 10.0, 30.0, 30.0)  # 20 x 20 px
ELSEWHERE = (100.0, 100.0, 120.0, 120.0)


def detected(*rows):
  """Returns the detections of an image from (box, score[, label]) of each."""
  boxes, scores, *labels = zip(*rows, strict=True) if rows else ((), ())
  labels = labels[0] if labels else [0] * len(boxes)
  return Detections(
    np.array(boxes).reshape(-1, 4), np.array(scores), np.array(labels, int)
  )


def objects(*boxes, labels=None, difficult=None):
  return Truth(
    np.array(boxes, float).reshape(-1, 4),
    np.array(labels or [0] * len(boxes), int),
    np.array(difficult or [False] * len(boxes)),
  )


def ap(detections, truth, num_classes=1, **options):
  return average_precision.average_precision(
    detections, truth, num_classes, **options
  )


def both(detections, truth):
  """Returns AP50 of a class in 11 points and as the area."""
  return [
    ap(detections, truth, interpolation=kind).AP50
    for kind in average_precision.INTERPOLATIONS
  ]


def shifted(px):
  return (10.0 + px, 10.0, 30.0 + px, 30.0)


# --- against the reference --------------------------------------------------


def recorded(golden):
  case = golden("voc_average_precision")
  columns = {
    kind: {name: i for i, name in enumerate(case["meta"][f"{kind}_columns"])}
    for kind in ("gt", "det")
  }
  box_names = ("xmin", "ymin", "xmax", "ymax")

  def of(rows, kind, image):
    """Returns the columns of an image, with boxes that count from 0."""
    at = columns[kind]
    rows = rows[rows[:, at["image"]] == image]
    boxes = rows[:, [at[name] for name in box_names]] - [1, 1, 0, 0]
    return boxes, {name: rows[:, i] for name, i in at.items()}

  detections, truth = [], []
  for image in range(case["meta"]["num_images"]):
    boxes, of_image = of(case["in/detections"], "det", image)
    labels = of_image["class"].astype(int)
    detections.append(Detections(boxes, of_image["score"], labels))
    boxes, of_image = of(case["in/gt"], "gt", image)
    labels, hard = of_image["class"].astype(int), of_image["difficult"] > 0
    truth.append(Truth(boxes, labels, hard))
  return case, detections, truth


@pytest.mark.golden
@pytest.mark.parametrize("row", [0, 1])
def test_the_recorded_case_is_met(golden, row):
  case, detections, truth = recorded(golden)
  measured = ap(
    detections,
    truth,
    len(case["meta"]["classes"]),
    interpolation=("11-point", "area")[row],
  )
  expected = case["out/ap"][row]  # percent
  np.testing.assert_allclose(100 * measured.per_class, expected, atol=1e-9)
  means = [100 * x for x in (measured.AP, measured.AP50, measured.AP75)]
  wanted = [expected.mean(), expected[:, 0].mean(), expected[:, 5].mean()]
  np.testing.assert_allclose(means, wanted, atol=1e-9)


@pytest.mark.golden
def test_the_files_say_the_same_as_the_arrays(golden, tmp_path):
  case, detections, truth = recorded(golden)
  rng = np.random.default_rng(0)
  detections = [
    one._replace(boxes=one.boxes + rng.uniform(-1, 1, one.boxes.shape))
    for one in detections
  ]
  images = [f"{i:06}" for i in range(len(truth))]
  classes = case["meta"]["classes"]
  named = dict(zip(images, detections, strict=True))
  voc_files.write(tmp_path, named, classes)
  again = voc_files.read(tmp_path, classes, images)
  np.testing.assert_array_equal(
    ap(detections, truth, len(classes)).per_class,
    ap(again, truth, len(classes)).per_class,
  )


# --- counted by hand --------------------------------------------------------


def test_all_found_and_nothing_else_is_one():
  measured = ap([detected((BOX, 0.9))], [objects(BOX)])
  assert measured[:3] == pytest.approx((1, 1, 1))
  assert both([detected((BOX, 0.9))], [objects(BOX)]) == pytest.approx([1, 1])


def test_half_of_the_objects_found():
  """Precision 1 up to a recall of 1/2: 6 of 11 points, and half the area."""
  detections = [detected((BOX, 0.9)), detected()]
  truth = [objects(BOX), objects(BOX)]
  assert both(detections, truth) == pytest.approx([6 / 11, 0.5])


def test_a_duplicate_is_wrong_and_so_is_another_place():
  """Right, wrong, right: precision 1 up to 1/2, then 2/3."""
  truth = [objects(BOX), objects(BOX)]
  for wrong in (shifted(1), ELSEWHERE):
    detections = [detected((BOX, 0.9), (wrong, 0.8)), detected((BOX, 0.7))]
    assert both(detections, truth) == pytest.approx(
      [(6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3]
    )


def test_the_higher_score_counts_not_the_better_box():
  """At .75 the first is wrong: then the second finds the object."""
  # Shifted by 4 of 20 px: 16 / 24 of the union.
  measured = ap([detected((shifted(4), 0.9), (BOX, 0.8))], [objects(BOX)])
  assert measured.AP50 == pytest.approx(1)
  assert measured.AP75 == pytest.approx(0.5)


def test_the_object_taken_is_the_best_one_even_if_it_is_gone():
  """VOC looks at the best object alone; COCO would take the other."""
  detections = [detected((BOX, 0.9), (shifted(1), 0.8))]
  truth = [
    objects(BOX, shifted(5))
  ]  # the second overlaps both by more than half
  assert both(detections, truth)[1] == pytest.approx(0.5)


def test_the_threshold_itself_is_not_enough():
  half = (10.0, 10.0, 30.0, 20.0)  # an IoU of exactly 1/2
  assert both([detected((half, 0.9))], [objects(BOX)]) == [0, 0]
  more = (10.0, 10.0, 30.0, 20.1)
  assert both([detected((more, 0.9))], [objects(BOX)]) == pytest.approx([1, 1])


def test_boxes_are_rounded_as_in_the_files():
  less = (10.0, 10.0, 30.0, 20.04)  # written as 20.0
  assert both([detected((less, 0.9))], [objects(BOX)]) == [0, 0]


def test_scores_are_rounded_and_equal_ones_keep_their_order():
  rows = (ELSEWHERE, 0.9001), (BOX, 0.9004)
  # Both are 0.900: the wrong one is first, and halves the precision.
  assert both([detected(*rows)], [objects(BOX)]) == pytest.approx([0.5, 0.5])
  assert both([detected(*rows[::-1])], [objects(BOX)]) == pytest.approx([1, 1])


@pytest.mark.parametrize("value", [0.05, 0.15, 0.25, 1.35, 2.675, 48.65, -0.25])
def test_rounding_is_that_of_printing(value):
  boxes, scores = voc_files.as_written([[value, value, value, value]], [value])
  assert boxes.tolist() == [
    [*[float(f"{value + 1:.1f}")] * 2, *[float(f"{value:.1f}")] * 2]
  ]
  assert scores.tolist() == [float(f"{value:.3f}")]


def test_difficult_objects_are_neither_missed_nor_found():
  hard = objects(BOX, ELSEWHERE, difficult=[True, False])
  rows = (BOX, 0.9), (shifted(1), 0.8), (ELSEWHERE, 0.7)
  assert both([detected(*rows)], [hard]) == pytest.approx([1, 1])
  assert ap([detected(*rows)], [hard]).num_objects.tolist() == [1]
  words = average_precision.verdicts(detected(*rows), hard)
  assert words == ["ignored", "ignored", "right"]


def test_three_objects_of_ten_do_not_reach_the_third_tenth():
  """0.1 + 0.1 + 0.1 is more than 0.3 where the reference steps."""
  detections = [detected((BOX, 0.9))] * 3 + [detected()] * 7
  assert both(detections, [objects(BOX)] * 10) == pytest.approx([3 / 11, 0.3])


def test_classes_and_images_stay_apart():
  detections = [
    detected((BOX, 0.9, 0), (ELSEWHERE, 0.9, 1)),
    detected((BOX, 0.8, 1)),
  ]
  truth = [objects(BOX, labels=[1]), objects(BOX, labels=[1])]
  measured = ap(detections, truth, 2)
  # Class 1: wrong, right, one of two objects.
  assert measured.per_class[1, 0] == pytest.approx(6 / 11 * 0.5)


def test_a_class_without_objects_is_left_out():
  truth = [objects(BOX, BOX, labels=[0, 2], difficult=[False, True])]
  measured = ap([detected((BOX, 0.9, 1), (BOX, 0.9, 0))], truth, 4)
  assert np.isnan(measured.per_class[1:]).all()
  assert measured[:3] == pytest.approx((1, 1, 1))


def test_no_detections_measure_zero():
  assert both([detected()], [objects(BOX)]) == [0, 0]
  assert both(
    [detected((BOX, 0.9)), detected()], [objects(), objects(BOX)]
  ) == [0, 0]


def test_verdicts_are_in_the_order_given():
  rows = (ELSEWHERE, 0.2), (BOX, 0.3), (shifted(1), 0.9)
  words = average_precision.verdicts(detected(*rows), objects(BOX))
  assert words == ["wrong", "wrong", "right"]
  assert average_precision.verdicts(detected(*rows), objects()) == ["wrong"] * 3
  assert average_precision.verdicts(detected(), objects(BOX)) == []


def test_a_slow_count_of_random_boxes_agrees():
  """The same rules, one detection after the other."""
  rng = np.random.default_rng(1)
  truth, detections = [], []
  for _ in range(12):
    corner = rng.integers(0, 60, (4, 2))
    boxes = np.hstack([corner, corner + rng.integers(10, 40, (4, 2))])
    truth.append(Truth(boxes, rng.integers(0, 2, 4), rng.random(4) < 0.3))
    moved = boxes[rng.integers(0, 4, 15)] + rng.normal(0, 3, (15, 4))
    scores = rng.random(15).round(1)
    detections.append(Detections(moved, scores, rng.integers(0, 2, 15)))
  measured = ap(detections, truth, 2, interpolation="area")
  for label in range(2):
    assert measured.per_class[label, 2] == pytest.approx(
      slow_area(detections, truth, label, average_precision.THRESHOLDS[2])
    )


def slow_area(detections, truth, label, threshold):
  rows = [
    (
      i,
      round(float(score), 3),
      [round(float(x), 1) for x in box + [1, 1, 0, 0]],
    )
    for i, one in enumerate(detections)
    for box, score, of in zip(*one, strict=True)
    if of == label
  ]
  rows.sort(key=lambda row: -row[1])
  total = sum(((one.labels == label) & ~one.difficult).sum() for one in truth)
  taken, hits, misses, curve = set(), 0, 0, []
  for i, _, box in rows:
    best = (0, None)
    for j in np.flatnonzero(truth[i].labels == label):
      other = truth[i].boxes[j] + [1, 1, 0, 0]
      wide = min(box[2], other[2]) - max(box[0], other[0]) + 1
      high = min(box[3], other[3]) - max(box[1], other[1]) + 1
      common = max(wide, 0) * max(high, 0)
      areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
      best = max(best, (common / (sum(areas) - common), j), key=lambda x: x[0])
    if best[0] > threshold and truth[i].difficult[best[1]]:
      continue
    right = best[0] > threshold and (i, best[1]) not in taken
    hits, misses = hits + right, misses + (not right)
    taken |= {(i, best[1])} if right else set()
    curve.append((hits / total, hits / (hits + misses)))
  area = before = 0
  for at, (recall, _) in enumerate(curve):
    area += (recall - before) * max(p for _, p in curve[at:])
    before = recall
  return area


# --- input that does not fit ------------------------------------------------


def test_all_mismatches_are_listed():
  bad = Detections(np.zeros((2, 4)), np.array([0.5]), np.array([0, 7]))
  worse = Truth(np.full((1, 4), np.nan), np.array([0]), np.array([False]))
  with pytest.raises(ValueError) as error:
    ap([bad], [worse])
  for words in (
    r"image 0: Detections.scores has the shape (1,), but there are 2 labels",
    "image 0: Detections.labels [7] are outside of 0..0",
    "image 0: Truth.boxes is not finite",
  ):
    assert words in str(error.value)
  with pytest.raises(ValueError, match="2 images and the truth of 1"):
    ap([detected(), detected()], [objects(BOX)])
  with pytest.raises(ValueError, match="nothing to measure"):
    ap([detected((BOX, 0.5))], [objects(BOX, difficult=[True])])


# --- text files -------------------------------------------------------------


def test_files_are_those_of_voc(tmp_path):
  detections = {
    "000001": detected((BOX, 0.98765, 1), ((9.04, 9.0, 20.06, 21.0), 0.5, 0)),
    "000002": detected((BOX, 0.1, 1)),
  }
  names = voc_files.write(tmp_path, detections, ["cat", "dog", "sofa"])
  assert [*names] == [f"comp4_det_test_{c}.txt" for c in ("cat", "dog", "sofa")]
  assert [*names.values()] == [1, 2, 0]
  texts = [(tmp_path / name).read_text() for name in names]
  assert texts == [
    "000001 0.500 10.0 10.0 20.1 21.0\n",
    "000001 0.988 11.0 11.0 30.0 30.0\n000002 0.100 11.0 11.0 30.0 30.0\n",
    "",
  ]


def test_written_detections_are_read_back(tmp_path):
  flat = (5.0, 5.0, 5.0, 9.0)  # no width: nothing that a reader may refuse
  detections = {"b": detected((BOX, 0.9, 1), (flat, 0.5, 0)), "a": detected()}
  voc_files.write(tmp_path, detections, ["cat", "dog"])
  a, b = voc_files.read(tmp_path, ["cat", "dog"], ["a", "b"])
  assert len(a.labels) == 0 and a.boxes.shape == (0, 4)
  np.testing.assert_allclose(b.boxes, [flat, BOX])
  assert b.scores.tolist() == [0.5, 0.9] and b.labels.tolist() == [0, 1]


@pytest.mark.faults
@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("a 0.5 1 2 3", "found 5 columns of 6"),
    ("a 0.5 1 2 3 x4", "'x4' in place of a number"),
    ("a nan 1 2 3 4", "'nan' in place of a number"),
    ("c 0.5 1 2 3 4", "the unknown image 'c'"),
    ("", "found 0 columns"),
    ("\xff\x00", "found 1 columns"),
  ],
)
def test_a_garbled_line_is_named(tmp_path, line, message):
  path = tmp_path / "comp4_det_test_cat.txt"
  path.write_bytes(f"a 0.5 1.0 2.0 3.0 4.0\n{line}\n".encode("latin1"))
  with pytest.raises(UserError, match=message) as error:
    voc_files.read(tmp_path, ["cat"], ["a", "b"])
  assert f"{path}, line 2: " in str(error.value)


@pytest.mark.faults
def test_all_bad_lines_and_a_cut_end_are_named(tmp_path):
  path = tmp_path / "comp4_det_test_cat.txt"
  path.write_text("a 0.5\n" * 12 + "a 0.5 1.0 2.0 3.0 4")
  with pytest.raises(UserError, match="line 10: .*\n.*and 3 more"):
    voc_files.read(tmp_path, ["cat"], ["a"])
  path.write_text("a 0.5 1.0 2.0 30.0 40.0\na 0.5 1.0 2.0 30.0 4")
  with pytest.raises(UserError, match="line 2: it has no end of line"):
    voc_files.read(tmp_path, ["cat"], ["a"])
  with pytest.raises(UserError, match="lacks comp4_det_test_dog.txt, comp4"):
    voc_files.read(tmp_path, ["cat", "dog", "cow"], ["a"])


def test_names_with_spaces_are_one_column_and_are_read_back(tmp_path):
  names = ["an image (0)", "an%20image", "tab\there", "plain"]
  one = voc_files.Detections(
    np.array([[0.0, 0, 4, 4]]), np.array([0.5]), np.array([0])
  )
  voc_files.write(tmp_path, dict.fromkeys(names, one), ["cat"])
  text = (tmp_path / voc_files.file_name("cat")).read_text()
  assert [line.split()[0] for line in text.splitlines()] == [
    "an%20image%20(0)",
    "an%2520image",
    "tab%09here",
    "plain",
  ]
  found = voc_files.read(tmp_path, ["cat"], names)
  assert [len(detections.scores) for detections in found] == [1, 1, 1, 1]

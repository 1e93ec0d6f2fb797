"""The embedded image set: what it holds, and what training must never see."""

import collections
import itertools
import json
import pickle
import shutil

import grain
import numpy as np
import pytest

from synthjax.data.real import real_images
from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from tools.embedded_world import build
from tools.embedded_world import concepts as concept_list

SEEN = ("train", "validation", "real_pool")
# Styles of training that few-shot pools go without.
LATER = {"fluent-emoji-3d", "fluent-emoji-high-contrast"}
HELD_OUT = ("test", "test_seen", "test_unseen")


@pytest.fixture(scope="module")
def index():
  """The shipped index as plain data, read without the code under test."""
  return json.loads((world.FOLDER / "concepts.json").read_text())


def shown(split, style_split, concept_splits, index):
  """Recounts (style, concept) of a split from the shipped file."""
  return collections.Counter(
    (style, concept)
    for style, record in index["styles"].items()
    if record["split"] == style_split
    and (split != "real_pool" or style not in LATER)
    for concept in record["rows"]
    if index["concepts"][concept]["split"] in concept_splits
  )


@pytest.mark.parametrize(
  ("split", "style_split", "concept_splits"),
  [
    ("train", "train", {"train"}),
    ("real_pool", "train", {"train"}),
    ("validation", "validation", {"train", "validation"}),
    ("test", "test", {"train", "test"}),
    ("test_seen", "test", {"train"}),
    ("test_unseen", "test", {"test"}),
  ],
)
def test_a_split_holds_its_styles_and_concepts(
  split, style_split, concept_splits, index
):
  source = world.open_split(split)
  found = collections.Counter((style, c) for style, _, c in source.rows)
  assert found == shown(split, style_split, concept_splits, index)
  assert len(source) > 100


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("held_out", HELD_OUT)
def test_no_test_style_and_no_test_concept_is_ever_seen(seen, held_out, index):
  test_concepts = {
    i for i, c in enumerate(index["concepts"]) if c["split"] == "test"
  }
  assert len(test_concepts) > 100
  seen, held_out = world.open_split(seen), world.open_split(held_out)
  assert not {row[:2] for row in seen.rows} & {row[:2] for row in held_out.rows}
  assert not {s for s, _, _ in seen.rows} & {s for s, _, _ in held_out.rows}
  assert not {concept for _, _, concept in seen.rows} & test_concepts


def test_training_sees_no_validation_style_or_concept():
  train = world.open_split("train")
  concepts = world.concepts()
  assert {concepts[c].split for _, _, c in train.rows} == {"train"}
  assert {world.STYLES[s] for s, _, _ in train.rows} == {"train"}


def test_near_duplicates_are_in_one_split(index):
  groups = collections.defaultdict(set)
  for concept in index["concepts"]:
    groups[concept_list.group_key(concept)].add(concept["split"])
  assert {key: s for key, s in groups.items() if len(s) > 1} == {}
  by_name = {c["name"]: c["split"] for c in index["concepts"]}
  assert by_name["judge"] == by_name["man judge"] == by_name["woman judge"]
  assert by_name["one o'clock"] == by_name["one thirty"]
  assert by_name["bus"] == by_name["oncoming bus"]


@pytest.mark.parametrize("style", world.STYLES)
def test_no_drawing_of_a_held_out_concept_is_a_training_drawing(style, index):
  """Icon sets reuse drawings: the same pixels must not be on both sides."""
  pixels = collections.defaultdict(set)
  rows = index["styles"][style]["rows"]
  for image, row in zip(world.images(style), rows, strict=True):
    split = index["concepts"][row]["split"]
    pixels[image.tobytes()].add(split)
    pixels[image[:, ::-1].tobytes()].add(split)
  assert all(len(splits) == 1 for splits in pixels.values())


@pytest.mark.parametrize("style", world.STYLES)
def test_drawings_are_on_white_and_not_blank(style, index):
  images = world.images(style)
  assert images.shape == (len(index["styles"][style]["rows"]), 32, 32, 3)
  assert images.dtype == np.uint8
  assert (images.std((1, 2, 3)) >= build.BLANK_STD).all()
  corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].min((1, 2))
  assert np.median(corners) == 255
  assert not images.flags.writeable


def test_a_row_says_what_it_shows():
  source = world.open_split("train")
  row = source[17]
  concept = world.concepts()[row["concept_id"]]
  assert row["image"].shape == (32, 32, 3)
  assert row["label"] == row["concept_id"] == concept.id
  assert row["concept"] == concept.name
  assert row["phrases"] == concept.phrases
  assert world.STYLES[row["style"]] == "train"
  assert len({source[i]["id"] for i in range(len(source))}) == len(source)


def test_known_drawings_have_their_colours():
  """An apple is red and a four leaf clover green, in every style of colour."""
  for split in world.SPLITS:
    source = world.open_split(split)
    for i, (style, _, concept) in enumerate(source.rows):
      name = world.concepts()[concept].name
      if style == "fluent-emoji-high-contrast":
        continue
      if name in ("red apple", "red heart", "green apple", "four leaf clover"):
        red, green = source[i]["image"].mean((0, 1))[:2]
        assert (red > green) == name.startswith("red"), source[i]["id"]


@pytest.mark.parametrize("name", world.SPACES)
def test_labels_are_those_of_the_space(name):
  space = spaces.load_space(name)
  label_of = {s: c.id for c in space.classes for s in c.subcategories}
  for split in ("train", "test"):
    source = world.open_split(split, space=space)
    assert set(source.labels) == set(range(len(space.classes)))
    concepts = [world.concepts()[c] for _, _, c in source.rows]
    assert [label_of[c.subcategory] for c in concepts] == list(source.labels)


def test_a_class_has_enough_to_learn_from():
  train = world.open_split("train", space=spaces.load_space("emoji16"))
  by_class = collections.defaultdict(set)
  for label, (_, _, concept) in zip(train.labels, train.rows, strict=True):
    by_class[label].add(concept)
  assert min(map(len, by_class.values())) >= 8


def test_sources_open_it_by_name():
  space = spaces.load_space("emoji10")
  source = real_images.open_real({"split": "test"}, space)
  assert len(source) == len(world.open_split("test", space=space))
  assert max(source.labels) == 9


def test_grain_reads_it_in_order_and_it_pickles():
  source = world.open_split("validation", space=spaces.load_space("emoji10"))
  rows = list(itertools.islice(grain.MapDataset.source(source), 5))
  assert [row["label"] for row in rows] == list(source.labels[:5])
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])
  assert len(pickle.dumps(source)) < 100_000  # no pixels in it


def test_an_unknown_split_is_answered_with_the_nearest():
  with pytest.raises(UserError, match="did you mean 'test'"):
    world.open_split("tests")


def test_a_space_of_other_images_is_refused():
  space = spaces.parse_space({"name": "s", "classes": ["barn"]}, where="s")
  with pytest.raises(UserError, match="barn.*subcategories"):
    world.open_split("train", space=space)


# Captions.


def test_held_out_names_are_no_captions(index):
  """No caption of a drawing is one of the names that were held out."""
  names = set(concept_list.HELD_OUT.values())
  phrases = {p for c in index["concepts"] for p in c["phrases"]}
  assert not names & phrases


def test_prompts_and_classifier_templates_are_templates_of_captions():
  """CLIP and the generator are asked in the form that they were trained on."""
  for template in (*world.PROMPTS, *world.CLASSIFIER_TEMPLATES):
    assert template in world.PLAIN_TEMPLATES


def test_every_subcategory_has_a_class_in_the_largest_space():
  names = spaces.load_space("emoji_all").class_names
  assert set(names) == set(world.SUBCATEGORIES.values())


def test_phrases_are_plain_and_start_with_the_name(index):
  for concept in index["concepts"]:
    phrases = concept["phrases"]
    assert 1 <= len(phrases) <= concept_list.MAX_PHRASES
    assert phrases[0] == concept["name"]
    assert len(set(phrases)) == len(phrases)
    for phrase in phrases:
      assert phrase == concept_list.plain(phrase)


def test_captions_depend_on_the_generator_alone():
  example = world.open_split("train")[100]
  captions = [
    world.sample_caption(example, np.random.default_rng(s)) for s in range(99)
  ]
  again = world.sample_caption(example, np.random.default_rng(5))
  assert again == captions[5]
  assert len(set(captions)) > 10
  named = sum(example["phrases"][0] in caption for caption in captions)
  assert 40 < named < 95
  assert pickle.loads(pickle.dumps(world.sample_caption))


def test_only_training_styles_have_words():
  assert {s for s, split in world.STYLES.items() if split == "train"} == set(
    world.STYLE_WORDS
  )
  words = {w for words in world.STYLE_WORDS.values() for w in words}
  example = world.open_split("test")[0]
  for seed in range(50):
    caption = world.sample_caption(example, np.random.default_rng(seed))
    assert not any(f" {word} " in f" {caption} " for word in words)


# The shipped files.


def test_every_style_and_word_list_has_its_licence(index):
  folder = world.FOLDER / "licenses"
  attribution = (folder / "ATTRIBUTION.md").read_text()
  for name in (*world.STYLES, "emoji-datasource", "emojilib"):
    source = index["sources"][name]
    notice = (folder / f"{name}.txt").read_text()
    assert "licen" in notice.lower() or "permission" in notice.lower()
    assert source["license"] in ("MIT", "Apache-2.0", "CC-BY-4.0")
    assert f"{source['package']} {source['version']}" in attribution
    assert source["author"] in attribution


def test_the_files_are_small():
  sizes = {p.name: p.stat().st_size for p in world.FOLDER.glob("*.*")}
  assert sizes["images.zip"] < 16_000_000
  assert sizes["concepts.json"] + sizes["tokenizer.json"] < 1_000_000


def _truncated(data):
  return data[: len(data) // 2]


def _flipped(data):
  """Changes one byte in the pixels of the first strip."""
  return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.faults
@pytest.mark.parametrize("damage", [_truncated, _flipped, lambda data: b""])
def test_a_damaged_image_file_is_named(tmp_path, damage):
  path = tmp_path / "images.zip"
  path.write_bytes(damage((world.FOLDER / "images.zip").read_bytes()))
  with pytest.raises(UserError, match=r"(?s)images\.zip.*reinstall"):
    world.read_images(path, "noto", len(world.images("noto")))


@pytest.mark.faults
def test_images_of_another_build_are_refused(tmp_path):
  path = tmp_path / "images.zip"
  build.pack({"noto": np.zeros((3, 32, 32, 3), np.uint8)}, path)
  assert len(world.read_images(path, "noto", 3)) == 3
  with pytest.raises(UserError, match="has 3 drawings.*lists 4"):
    world.read_images(path, "noto", 4)


@pytest.mark.faults
def test_a_damaged_index_is_named(tmp_path):
  path = tmp_path / "concepts.json"
  shutil.copy(world.FOLDER / "concepts.json", path)
  assert world.read_index(path)["styles"].keys() == world.STYLES.keys()
  for text in (path.read_text()[:-100], "{}"):
    path.write_text(text)
    with pytest.raises(UserError, match=r"(?s)concepts\.json.*reinstall"):
      world.read_index(path)


# Building.


def test_packing_loses_nothing_and_is_the_same_each_time(tmp_path):
  rng = np.random.default_rng(0)
  images = {"noto": rng.integers(0, 256, (7, 32, 32, 3), np.uint8)}
  paths = tmp_path / "a.zip", tmp_path / "b.zip"
  for path in paths:
    build.pack(images, path)
  decoded = world.read_images(paths[0], "noto", 7)
  np.testing.assert_array_equal(decoded, images["noto"])
  assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_shipped_tokenizer_is_rebuilt_byte_for_byte(index):
  trained = build.train_tokenizer(index["concepts"])
  shipped = (world.FOLDER / "tokenizer.json").read_text()
  assert trained.to_str() == shipped


def test_splits_follow_from_the_names(index):
  """Without the pixels: only pairs drawn alike may have moved a group."""
  splits = concept_list.splits(index["concepts"], [])
  shipped = [c["split"] for c in index["concepts"]]
  same = np.mean([a == b for a, b in zip(splits, shipped, strict=True)])
  assert same > 0.97
  assert splits == concept_list.splits(index["concepts"], [])


def test_alike_pairs_finds_copies_and_mirror_images():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
  images[2] = images[0]
  images[3] = images[1, :, ::-1]
  pairs = set(build.alike_pairs([5, 6, 7, 8], images))
  assert pairs == {(5, 7), (6, 8)}


def test_a_pair_drawn_alike_shares_a_split(index):
  concepts = index["concepts"]
  splits = concept_list.splits(concepts, [])
  kind = [c["subcategory"] == "animal-mammal" for c in concepts]
  a = next(i for i, s in enumerate(splits) if kind[i] and s == "test")
  b = next(i for i, s in enumerate(splits) if kind[i] and s == "train")
  united = concept_list.splits(concepts, [tuple(sorted((a, b)))])
  assert united[a] == united[b]

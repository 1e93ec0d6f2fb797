"""A user's own label space: five lines of YAML through the quick start."""

import json
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import load_file

from synthjax import main
from synthjax.data.generated import scores
from synthjax.embedded import captions
from synthjax.labels import spaces, wordnet
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import prompts, tune

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
QUICKSTART, OWN_LABELS = CONFIGS / "quickstart.py", CONFIGS / "own_labels.py"
FIVE_LINES = """\
classes:
  - {name: cat, related: [cat face, black cat]}
  - {name: fish, related: [tropical fish]}
  - axolotl
prompts: ["a drawing of {}"]
"""


def write(folder, text=FIVE_LINES):
  path = folder / "mine.yaml"
  path.write_text(text)
  return str(path)


def load(space, arg="images_per_class=1"):
  return main.load_config(f"{QUICKSTART}:space={space},{arg}")


@pytest.mark.slow
def test_five_lines_run_through_the_quick_start(tmp_path, capsys, caplog):
  """No image of an axolotl is anywhere: its classifier is made all the same."""
  config, workdir = load(write(tmp_path)), tmp_path / "run"
  with caplog.at_level(logging.WARNING):
    main.run_tasks(config, str(workdir))
  assert "'axolotl' of 'axolotl'" in caplog.text
  assert "no real images were given" in capsys.readouterr().out
  for task in config.tasks:
    artifacts.verify(workdir / task)
  rows = parquet.read_table(workdir / "select" / "selection.parquet")
  assert len(rows) == 9  # 3 classes x 3 seeds of images
  heads = load_file(workdir / "tune" / "heads.safetensors")
  assert len(heads) == 8  # zero-shot and 3 seeds, each a weight and a bias
  assert {len(each) for each in heads.values()} == {3}
  zero_shot = heads["zero_shot/weight"]
  assert np.abs(heads["LE+CF SCE, seed 0/weight"] - zero_shot).max() > 0.1
  results = json.loads((workdir / "tune" / "results.json").read_text())
  assert results["classes"] == ["cat", "fish", "axolotl"]
  assert results["zero_shot"] == {} and results["summary"] == []
  assert "axolotl" in (workdir / "report" / "report.html").read_text()


def test_without_real_images_the_config_asks_for_none(tmp_path):
  config = load(write(tmp_path))
  assert config.tune.test is config.tune.validation is None
  assert config.tune.test_parts is None
  # A space of the package is measured as ever.
  assert load("emoji10").tune.test.split == "test"
  text = FIVE_LINES.replace("- axolotl", "- {name: bug, related: [ant]}")
  for name, part in (("cat", "mammal"), ("fish", "marine"), ("bug", "bug")):
    part = f"subcategories: [animal-{part}]"
    text = text.replace(f"name: {name}", f"name: {name}, {part}")
  own = load(write(tmp_path, text))
  assert own.tune.test.split == "test"
  own.tasks = ("prompts", "generate", "score", "select", "tune")
  tune.check(own, str(tmp_path))


def test_a_folder_of_real_images_is_the_test(tmp_path):
  for name in ("cat", "fish", "axolotl"):
    (tmp_path / "photos" / name).mkdir(parents=True)
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(tmp_path / "photos" / name / "1.png")
  space = write(tmp_path)
  config = load(space, f"test={tmp_path / 'photos'}")
  assert config.tune.test.kind == "folder" and config.tune.validation is None
  tune.check(config, str(tmp_path))
  (tmp_path / "photos" / "axolotl" / "1.png").unlink()
  with pytest.raises(UserError, match="axolotl: holds no image"):
    tune.check(config, str(tmp_path))


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("classes: [cat, dog, Cat]", "the name 'cat' occurs 2 times"),
    ("classes: [cat, '', dog]", r"classes\[1\].name: must be a text, not ''"),
    ("classes:\n  - cat\n  -\n  - dog", r"line 3: classes\[1\]: is empty"),
    ("classes:\n  - {related: [tabby]}", r"classes\[0\].name: must be a text"),
    ("classes: []", "at least one class"),
    ("classes: [cat]\nprompt: ['a {}']", "did you mean 'prompts'"),
    ("classes: [cat, dog", "Cannot read the label space"),
  ],
)
def test_a_space_that_does_not_hold_stops_before_anything(
  text, words, tmp_path
):
  workdir = tmp_path / "run"
  with pytest.raises(UserError, match=words):
    main.run_tasks(load(write(tmp_path, text)), str(workdir))
  assert not workdir.exists()


def test_a_missing_path_is_reported(tmp_path):
  with pytest.raises(UserError, match="Cannot read the label space"):
    main.run_tasks(load(tmp_path / "no.yaml"), str(tmp_path / "run"))


# --- five lines -------------------------------------------------------------


def space_of(folder, text, ending="yaml"):
  path = folder / f"mine.{ending}"
  path.write_text(text)
  return spaces.load_space(str(path))


def error_of(folder, text, ending="yaml"):
  with pytest.raises(UserError) as error:
    space_of(folder, text, ending)
  return str(error.value)


def test_a_list_of_names_is_a_space(tmp_path):
  space = space_of(tmp_path, "- heron\n- gull\n")
  assert space.name == "mine" and space.class_names == ("heron", "gull")
  assert space_of(tmp_path, '["heron",\n\t"gull"]', "json") == space


def test_a_description_or_a_hint_goes_where_the_name_does(tmp_path):
  space = space_of(
    tmp_path,
    "- {name: crane, sense: bird}\n"
    "- {name: bat, description: a wooden club}\n"
    "- {name: bank, sense: building, description: a marble hall}\n"
    "- {name: mouse, sense: 2, related: [wireless mouse]}\n"
    "- heron\n",
  )
  assert space.described_names == (
    "crane, a wading bird",
    "bat, a wooden club",
    "bank, a marble hall",
    "mouse, an electronic device",
    "heron",
  )
  assert space.class_names[0] == "crane"
  assert [each.related for each in space.classes] == [
    ("crane, a wading bird",),
    ("bat, a wooden club",),
    ("bank, a marble hall",),
    ("wireless mouse",),  # what a user writes stays as it is
    (),
  ]


def test_sentences_say_what_is_meant_after_the_right_article(tmp_path):
  space = space_of(
    tmp_path, "- {name: crane, sense: bird}\n- organ\n- unicycle\n"
  )
  crane, organ, unicycle = space.classes
  written = [space.sentence("a photo of a {}.", each) for each in space.classes]
  assert written == [
    "a photo of a crane, a wading bird.",
    "a photo of an organ.",
    "a photo of a unicycle.",
  ]
  assert space.sentence("an {} at night", unicycle) == "a unicycle at night"
  # What is meant ends with a comma, so that it is not "a bird at night".
  assert space.sentence("a {} at night", crane) == (
    "a crane, a wading bird, at night"
  )
  assert spaces.identify_texts(space) == {
    "descriptions": {"0": "a wading bird"},
    "articles": True,
  }


def test_the_classifier_reads_what_is_meant(tmp_path):
  space = space_of(tmp_path, "- {name: crane, sense: bird}\n- heron\n")
  read = []
  scores.encode_classes(
    lambda texts: read.extend(texts) or np.eye(len(texts), 3), 100.0, space
  )
  assert read == ["a photo of a crane, a wading bird.", "a photo of a heron."]


@pytest.mark.parametrize(
  ("description", "noun"),
  [
    ("a large wading bird", "bird"),
    ("a wooden club used in baseball", "club"),
    ("A bird of prey", "bird"),
    ("any of various birds", "birds"),
    ("a kind of wading bird, which is grey", "bird"),
    ("a pair of glasses", "glasses"),
    ("", ""),
    ("of", ""),
  ],
)
def test_a_description_has_a_noun(description, noun):
  assert wordnet.head_word(description) == noun


def test_related_words_are_filled_in_and_logged(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    space = space_of(
      tmp_path,
      "fill_related: true\n"
      "classes:\n"
      "  - kingfisher\n"
      "  - {name: bat, sense: animal}\n"
      "  - crane\n"
      "  - {name: gull, related: [sea gull]}\n"
      "  - quuxbird\n",
    )
  kingfisher, bat, crane, gull, quuxbird = (c.related for c in space.classes)
  assert {"kingfisher", "belted kingfisher", "kookaburra"} <= {*kingfisher}
  assert bat[0].startswith("bat, ") and "vampire bat" in bat
  assert "bat" not in bat  # that alone may be a club
  # Nobody has told which crane; and what there is stays.
  assert crane == quuxbird == () and gull == ("sea gull",)
  assert "kookaburra" in caplog.text and "quuxbird: none" in caplog.text
  assert "crane: none, before its meaning is given by `sense`" in caplog.text
  assert "sea gull" not in caplog.text


def test_ambiguous_names_are_logged_once_and_before_anything_runs(
  tmp_path, caplog
):
  text = "- heron\n- crane\n- {name: bat, sense: animal}\n"
  text += "- {name: mouse, related: [field mouse]}\n- kingfisher\n"
  config = main.load_config(
    f"{OWN_LABELS}:labels={write(tmp_path, text)},runlocal"
  )
  with caplog.at_level(logging.WARNING):
    prompts.check(config, str(tmp_path / "run"))
    prompts.check(config, str(tmp_path / "run"))
  assert caplog.text.count("{name: crane, sense: 2}") == 1
  assert "'a photo of a crane, a wading bird'" in caplog.text
  assert "bat:" not in caplog.text and "mouse:" not in caplog.text
  assert not (tmp_path / "run").exists()


def test_one_class_alone_is_reported(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    space = space_of(tmp_path, "- hammer, saw, axe\n")
  assert len(space.classes) == 1 and "one class alone" in caplog.text


def test_spaces_around_and_within_names_do_not_count(tmp_path):
  space = space_of(tmp_path, '- "  acoustic  guitar "\n- "tuba\\t"\n')
  assert space.class_names == ("acoustic guitar", "tuba")


def test_names_that_occur_twice_are_reported_by_line(tmp_path):
  message = error_of(tmp_path, "- hammer\n- saw\n- Hammer\n- axe\n- 'saw '\n")
  assert message.splitlines()[1:] == [
    f"  line {line}: classes[{line - 1}]: the name {name!r} occurs 2 times; "
    "leave it there once, or give every class a `key` of its own"
    for line, name in ((3, "hammer"), (5, "saw"))
  ]


def test_names_that_networks_read_badly_are_logged(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    space_of(tmp_path, "- acoustic_guitar\n- a harp\n- tuba\n")
  assert "networks read 'acoustic guitar' better" in caplog.text
  assert "a harp: prompts have an article of their own" in caplog.text


def test_all_problems_are_reported_by_line(tmp_path):
  message = error_of(
    tmp_path,
    "classes:\n"
    "  - no\n"
    "  - crane: a wading bird\n"
    "  - {name: bat, sens: animal}\n"
    "  - {name: mouse, sense: car}\n"
    "  - {name: 2024-01-01}\n"
    "  - {name: xyzzy, sense: 2}\n"
    "  - {related: [ox]}\n"
    "  - {name: cow, related: ox, description: [1]}\n"
    "  - {name: gull, related: [1.5]}\n"
    "prompts: a photo of {}\n"
    "fill_related: 3\n",
  )
  assert message.splitlines()[1:] == [
    "  line 2: classes[0]: must be a name or a mapping, not False; in quotes, "
    '"no" is one',
    "  line 3: classes[1]: has no `name`; write {name: crane, description: a "
    "wading bird}",
    "  line 4: classes[2].sens: is not a field; did you mean 'sense'?",
    "  line 5: classes[3].sense: 'car' is no meaning of 'mouse'. Allowed: 1) a "
    "rodent; 2) an electronic device; 3) person",
    "  line 6: classes[4].name: must be a text, not datetime.date(2024, 1, 1); "
    'in quotes, "2024-01-01" is one',
    "  line 7: classes[5].sense: WordNet has no meaning of 'xyzzy' that an "
    "image can show; give a `description` instead of sense=2",
    "  line 8: classes[6].name: must be a text, not None",
    "  line 9: classes[7].description: must be a text, not [1]",
    "  line 9: classes[7].related: must be a list of texts, not 'ox'; write "
    "['ox']",
    "  line 10: classes[8].related[0]: 1.5 is not a text; in quotes, "
    '"1.5" is one',
    "  line 11: prompts: must be a list of texts, not 'a photo of {}'; write "
    "['a photo of {}']",
    "  line 12: fill_related: must be true or false, not 3",
  ]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("classes: [a]\nclasses: [b]\n", "line 2: classes: is given twice"),
    ("- {name: a, name: b}\n", r"line 1: classes\[0\].name: is given twice"),
    ("- name: cat, related: [x]\n", "line 1, column .* Put braces around"),
    ("classes:\n\t- cat\n", "line 2, column 1.* Indent by spaces"),
    ("classes: [cat]\nprompts: [a {}]\n", "line 2.* quotes around a text"),
    ("cat\ndog\n", "not 'cat dog'. Begin the line of each name with '- '"),
    ("", "not None"),
    ("- {name: cat, sense: true}", "must be a number or words, not True"),
    ("- {name: cat, sense: 1.5}", "must be a number or words, not 1.5"),
    (f"[cat, 0x{'f' * 9999}]", "Exceeds the limit"),
    ("- {name: cat, key: dog}\n- dog\n", "line 2.*the key 'dog' occurs 2"),
    ('["cat", "cat\\u200b"]', "the name 'cat' occurs 2 times"),
    ('["cat", "\\ufeff"]', r"classes\[1\].name: must be a text"),
    ('["a\\u0000b"]', r"classes\[0\].name: 'a\\x00b' holds '\\x00'"),
    ('- {name: a, related: ["\\x07"]}', r"related\[0\]: '\\x07' holds"),
  ],
)
def test_what_often_goes_wrong_is_explained(text, words, tmp_path):
  with pytest.raises(UserError, match=words):
    space_of(tmp_path, text)


def test_lines_of_json_are_reported_too(tmp_path):
  message = error_of(tmp_path, '["cat",\n 5,\n {"nam": "x"}]', "json")
  assert "line 2: classes[1]: must be a name" in message
  assert "line 3: classes[2].nam: is not a field" in message
  assert "line 1 column" in error_of(tmp_path, '["cat",]', "json")
  # Half of a character, which YAML cannot write.
  assert "holds '\\ud83d'" in error_of(tmp_path, '["\\ud83d"]', "json")
  twice = error_of(tmp_path, '{"classes": ["a"], "classes": ["b"]}', "json")
  assert "'classes' is given twice" in twice
  # YAML does not read tabs, so that no line is known.
  assert "\n  classes[1]:" in error_of(tmp_path, '["cat",\n\t5]', "json")


def test_many_problems_are_cut(tmp_path):
  message = error_of(tmp_path, "- 1\n" * 50)
  assert "line 40:" in message and "line 41:" not in message
  assert "and 10 more" in message


# --- own_labels.py ----------------------------------------------------------


def test_own_labels_takes_a_file_and_a_folder(tmp_path):
  space = write(tmp_path)
  config = main.load_config(f"{OWN_LABELS}:labels={space},test={tmp_path}")
  assert config.space == space and config.generator.dtype == "bfloat16"
  assert config.tune.test.to_dict() == {"kind": "folder", "path": str(tmp_path)}
  assert config.prompts.per_class == 200 and config.select.max_per_class == 800
  fewer = main.load_config(f"{OWN_LABELS}:labels={space},images_per_class=3")
  assert fewer.prompts.per_class == fewer.select.max_per_class == 1
  assert fewer.tune.test is None
  with pytest.raises(UserError, match="did you mean 'rn50'"):
    main.load_config(f"{OWN_LABELS}:labels={space},encoder=rn5")


def test_own_labels_passes_the_checks_of_its_tasks(tmp_path):
  config = main.load_config(f"{OWN_LABELS}:labels={write(tmp_path)},runlocal")
  for task in (prompts, tune):
    task.check(config, str(tmp_path))


# --- words that the embedded generator never met ----------------------------


def test_own_prompts_are_used_or_a_warning_says_that_they_are_not(
  tmp_path, caplog
):
  space = write(tmp_path)
  texts = {}
  for strategy in ("enhanced", "template"):
    config = main.load_config(
      f"{OWN_LABELS}:labels={space},runlocal,strategy={strategy}"
    )
    config.tasks = ("prompts",)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      main.run_tasks(config, str(tmp_path / strategy))
    assert ("are not drawn from" in caplog.text) == (strategy == "enhanced")
    assert {arm["strategy"] for arm in config.tune.arms} == {strategy}
    lines = (tmp_path / strategy / "prompts" / "prompts.jsonl").read_text()
    texts[strategy] = [json.loads(x)["text"] for x in lines.splitlines()]
  assert texts["template"] == [
    f"a drawing of {name}" for name in ("cat", "fish", "axolotl")
  ]
  assert "a drawing of cat" not in texts["enhanced"]
  with pytest.raises(UserError, match="did you mean 'template'"):
    main.load_config(f"{OWN_LABELS}:labels={space},strategy=templates")


def test_words_of_no_caption_are_found():
  texts = ("a shiny drawing of black cat", "Axolotl, detailed", "an axolotl")
  assert captions.unknown_words(texts) == ["axolotl"]
  assert captions.unknown_words(["a flat emoji of a red apple"]) == []
  assert captions.unknown_words(["x-ray of Zürichsee"])[-1] == "zürichsee"


def test_prompts_warn_of_words_that_were_never_met(tmp_path, caplog):
  config = load(write(tmp_path))
  with caplog.at_level(logging.WARNING):
    prompts.run(config, str(tmp_path / "run"))
  assert "'axolotl' of 'axolotl'" in caplog.text and "related" in caplog.text
  assert "'cat'" not in caplog.text
  summary = artifacts.load(tmp_path / "run" / "prompts")["summary"]
  assert summary["unknown_words"] == {"axolotl": ["axolotl"]}


@pytest.mark.parametrize("weights", ["released:glide/base.safetensors", None])
def test_other_generators_know_other_words(weights, tmp_path, caplog):
  config = load(write(tmp_path))
  config.generator.base.weights = weights
  with caplog.at_level(logging.WARNING):
    prompts.run(config, str(tmp_path / "run"))
  assert "axolotl" not in caplog.text


def test_the_words_of_the_embedded_spaces_are_known(tmp_path, caplog):
  """What the quick start asks for is what the networks were trained on."""
  with caplog.at_level(logging.WARNING):
    prompts.run(load("emoji16", "images_per_class=30"), str(tmp_path))
  assert "no caption" not in caplog.text


# --- folders ------------------------------------------------------------------


def test_a_folder_of_class_folders_is_a_space(tmp_path):
  for name in ("pets/red_panda", "pets/Crane", "pets/.cache"):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / "pets" / "list.csv").touch()
  space = spaces.load_space(f"{tmp_path}/pets/")
  assert space.name == "pets" and space.class_names == ("Crane", "red panda")
  assert space.keys == ("Crane", "red_panda")


def test_the_classes_of_a_folder_with_splits_are_those_of_train(tmp_path):
  for name in ("train/gull", "train/heron", "test/gull"):
    (tmp_path / name).mkdir(parents=True)
  space = spaces.load_space(str(tmp_path))
  assert space.class_names == ("gull", "heron")


def test_a_folder_without_folders_is_no_space(tmp_path):
  (tmp_path / "labels.csv").touch()
  with pytest.raises(UserError, match="holds no folders.*list the names"):
    spaces.load_space(str(tmp_path))
  with pytest.raises(UserError, match="There is no folder .*/pets/, whose"):
    spaces.load_space(f"{tmp_path}/pets/")


# --- photographs --------------------------------------------------------------

LEARNERS = {  # config -> the task that learns, and its name of the images
  "own_labels": ("few_shot", "pool"),
  "fewshot": ("few_shot", "pool"),
  "pretrain_c100": ("transfer", "train"),
  "pretrain_in1k": ("transfer", "train"),
  "pretrain_in2k": ("transfer", "train"),
  "pretrain_moco": ("transfer", "train"),
  "transfer_cifar100": ("transfer", "train"),
  "detect_voc": ("detect", "train"),
}


@pytest.mark.parametrize("runlocal", ["", ",runlocal"])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_config_learns_from_photographs(name, runlocal):
  task, train = LEARNERS[name]
  load = lambda arg: main.load_config(
    f"{OWN_LABELS.parent}/{name}.py:{arg}{runlocal}"
  )
  block = load("labels=x.yaml,train=a,test=b")[task].to_dict()
  assert block[train] == {"kind": "folder", "path": "a", "split": "train"}
  assert block["test"] == {"kind": "folder", "path": "b", "split": "test"}
  assert block.get("validation") is None
  config = load("labels=x.yaml,train=a,validation=a")
  block = config[task].to_dict()
  assert config.space == "x.yaml" or block["space"] == "x.yaml"
  shares = {"validation": 0.2, "test": 0.2}
  for split in ("train", "validation", "test"):
    images = block[train if split == "train" else split]
    folder = {"kind": "folder", "path": "a", "split": split, "shares": shares}
    assert images == folder


@pytest.mark.parametrize("name", sorted({*LEARNERS} - {"own_labels"}))
def test_photographs_need_the_names_of_their_classes(name):
  path = f"{OWN_LABELS.parent}/{name}.py"
  for arg, words in (
    ("train=a", "train=a without `labels`"),
    ("labels=x.yaml,test=b", "without `train`"),
  ):
    with pytest.raises(UserError, match=words):
      main.load_config(f"{path}:{arg}")


@pytest.mark.parametrize("runlocal", ["", ",runlocal"])
def test_rare_classes_are_topped_up(runlocal):
  load = lambda arg: main.load_config(
    f"{OWN_LABELS.parent}/topup.py:{arg}{runlocal}"
  )
  config = load("data=pets")
  assert config.space == "pets/"  # and no built-in space
  folder = {"kind": "folder", "path": "pets", "shares": {"test": 0.2}}
  block = config.top_up.to_dict()
  assert block["pool"] == folder | {"split": "train"}
  assert block["test"] == folder | {"split": "test"}
  assert "validation" not in block
  assert config.generate.top_up.pool == config.top_up.pool
  assert config.generate.top_up.share == config.select.share
  assert config.generate.get("images_per_class") is None
  given = load("data=a,validation=b,test=c,labels=x.yaml,per_class=9")
  assert given.space == "x.yaml" and given.generate.images_per_class == 9
  assert given.top_up.validation.path == "b"
  with pytest.raises(UserError, match="labels and test without `data`"):
    load("labels=x.yaml,test=c")


def test_any_clip_encodes(tmp_path):
  own = lambda name: main.load_config(f"{OWN_LABELS}:encoder={name}").encoder
  assert own("rn50") == own("clip_rn50")
  assert own("clip_vit_l14").weights == "released:clip_vit_l14/clip.safetensors"
  assert own("hf://my/clip").weights == "hf://my/clip"

"""Qwen3 as the writer of sentences, beside transformers, and what it asks."""

import json

import jax
import numpy as np
import pytest
import tiny_flux2
from safetensors.numpy import save_file

from synthjax.models.qwen3 import weights as convert
from synthjax.prompts import qwen3_writer
from synthjax.runtime import memory
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import qwen

SIZES = tiny_flux2.CONFIGS["text_encoder"] | {
  "num_hidden_layers": 2,
  "rms_norm_eps": 1e-6,
}


def reference(tied):
  """Returns a Qwen3 of transformers whose greedy texts vary."""
  torch = pytest.importorskip("torch")
  from transformers import Qwen3Config, Qwen3ForCausalLM

  torch.manual_seed(0)
  options = {k: v for k, v in SIZES.items() if k != "model_type"}
  model = Qwen3ForCausalLM(
    Qwen3Config(**options, tie_word_embeddings=tied)
  ).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if "norm" in name:
        weight *= 1 + 0.3 * torch.randn_like(weight)
      elif name.endswith("_proj.weight"):
        weight *= 15
  return model


def write_folder(folder, model, tied, of_model=""):
  """Writes a Qwen3 as Hugging Face does, or as a FLUX.2-klein holds it."""
  of_tokenizer = folder / ("tokenizer" if of_model else "")
  for path in (folder / of_model, of_tokenizer):
    path.mkdir(parents=True, exist_ok=True)
  arrays = {k: w.numpy().copy() for k, w in model.state_dict().items()}
  if tied:
    del arrays["lm_head.weight"]
  save_file(arrays, folder / of_model / "model.safetensors")
  settings = json.dumps(SIZES | {"tie_word_embeddings": tied})
  (folder / of_model / "config.json").write_text(settings)
  tiny_flux2.tokenizer().save(str(of_tokenizer / "tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("qwen3")
  write_folder(folder, reference(tied=True), tied=True)
  return folder


@pytest.mark.parametrize(
  "tied", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_greedy_texts_equal_those_of_transformers(tmp_path, tied):
  torch = pytest.importorskip("torch")
  theirs = reference(tied)
  # The layout of a FLUX.2-klein, whose text encoder is a whole Qwen3.
  write_folder(tmp_path, theirs, tied, of_model="" if tied else "text_encoder")
  model, variables, _ = convert.from_folder(tmp_path)
  rng, length = np.random.default_rng(0), 10
  texts = [rng.integers(0, 300, n) for n in (7, 1, 4)]
  tokens = np.full((3, 7 + length), 299, np.int32)
  for row, text in enumerate(texts):
    tokens[row, : len(text)] = text
  lengths = np.array([len(text) for text in texts], np.int32)
  want = []
  for text in texts:
    with torch.no_grad():
      want.append(
        theirs.generate(
          torch.tensor(text)[None],
          attention_mask=torch.ones(1, len(text), dtype=torch.long),
          do_sample=False,
          max_new_tokens=length,
          eos_token_id=None,
          pad_token_id=0,
        ).numpy()[0]
      )
  keys = jax.random.split(jax.random.key(0), 3)

  def write(end):
    with jax.default_matmul_precision("highest"):
      return np.asarray(
        jax.jit(
          lambda *given: qwen3_writer.write_tokens(
            model, *given, max_length=length, end=end
          )
        )(variables, tokens, lengths, keys)
      )

  got = write(end=-1)
  for row, text in enumerate(want):
    np.testing.assert_array_equal(got[row, : len(text)], text)
    assert (got[row, len(text) :] == 299).all()
  written = np.concatenate([w[n:] for w, n in zip(want, lengths, strict=True)])
  assert len(np.unique(written)) >= 6
  # A text stops behind its end, and the others go on.
  end = int(want[0][lengths[0] + 2])
  stopped = write(end)
  for row, n in enumerate(lengths):
    answer = want[row][n:].tolist()
    count = answer.index(end) + 1 if end in answer else length
    assert stopped[row, n : n + count].tolist() == answer[:count]
    assert (stopped[row, n + count :] == 299).all()


def fields(folder, **changes):
  options = {"weights": str(folder), "batch_size": 2, "dtype": "float32"}
  return qwen3_writer.Fields(**options | changes)


@pytest.mark.slow
def test_a_sentence_depends_on_its_topic_its_number_and_the_seed(
  folder, monkeypatch
):
  # Random weights hardly ever end a text.
  monkeypatch.setattr(
    qwen3_writer, "until", lambda ids, end: [i for i in ids if i < 256]
  )

  def load(seed=0, **changes):
    options = {"max_length": 8, "temperature": 2.0}
    return qwen3_writer.load(fields(folder, **options | changes), seed=seed)

  sample, topics, numbers = load(), ["dog", "red apple", "dog"], range(3)
  three = sample(topics, numbers)
  assert len({*three}) == 3
  assert sample(topics[::-1], numbers[::-1]) == three[::-1]
  assert sample(topics[2:], [2]) == three[2:]
  assert load(batch_size=3)(topics, numbers) == three
  assert load(seed=1)(topics, numbers) != three
  assert sample(["dog"], [7]) != three[:1]


@pytest.mark.faults
def test_a_batch_that_does_not_fit_is_refused_before_it_runs(
  folder, monkeypatch
):
  monkeypatch.setattr(memory, "limit", lambda: 2**23)
  load = lambda **o: qwen3_writer.load(
    fields(folder, max_length=8, **o), seed=0
  )
  assert len(load()(["dog"], [0])) == 1
  problem = r"config\.prompts\.batch_size=4096 needs about .*: set it to \d+\."
  with pytest.raises(UserError, match=problem):
    load(batch_size=4096)(["dog"], [0])


def test_each_message_has_scenes_of_its_own(folder):
  asked = fields(folder)
  ask = lambda *given, seed=0: qwen3_writer.message(asked, *given, seed=seed)
  assert ask("crane, bird", 3) == ask("crane, bird", 3)
  texts = {ask("crane, bird", i) for i in range(50)}
  assert len(texts) > 40 and all("shows: crane, bird." in t for t in texts)
  assert ask("crane, bird", 3) != ask("crane, bird", 3, seed=1)
  used = [scene for scene in asked.scenes if any(scene in t for t in texts)]
  assert len(used) > 0.9 * len(asked.scenes)
  plain = fields(folder, message="A photo of {topic}:", scenes=())
  assert qwen3_writer.message(plain, "dog", 0, seed=0) == "A photo of dog:"
  assert list(plain.problems()) == []
  (problem,) = fields(folder, scenes=("at night",)).problems()
  assert "leave {scene} out" in problem


def test_an_answer_is_its_first_line_without_quotes():
  assert qwen3_writer.until(np.array([5, 6, 9, 7]), 9) == [5, 6]
  assert qwen3_writer.until(np.array([5, 6]), 9) == []  # cut off
  for answer in ("A dog.", '"A dog."', "\n \u201cA dog.\u201d\nIt runs."):
    assert qwen3_writer.first_line(answer) == "A dog."
  for answer in ("", " \n", '"'):
    assert qwen3_writer.first_line(answer) == answer.strip()
  assert qwen3_writer.first_line('"A" is "B"?') == '"A" is "B"?'


def test_weights_and_tokenizer_identify_what_is_written(folder, tmp_path):
  one = qwen3_writer.identify(fields(folder))
  assert {*one["weights"]} == {
    *("config.json", "model.safetensors", "tokenizer.json")
  }
  qwen3_writer.check(fields(folder))
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match="has no Qwen3"):
    qwen3_writer.check(fields(tmp_path))


@pytest.mark.faults
def test_unfit_configurations_are_refused(folder, tmp_path):
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  for change, message in (
    ({"hidden_act": "gelu"}, "hidden_act='gelu', supported: 'silu'"),
    ({"num_key_value_heads": 3}, "does not split"),
    ({"num_hidden_layers": 3}, "layers_2"),
  ):
    settings = SIZES | {"tie_word_embeddings": True} | change
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
      convert.from_folder(tmp_path)


def test_what_is_read_of_a_repository():
  own = ["config.json", "tokenizer.json", "model.safetensors", "README.md"]
  assert convert.wanted(own) == own[:3]
  klein = [f"text_encoder/{n}" for n in ("config.json", "model.safetensors")]
  others = ["tokenizer/tokenizer.json", "vae/config.json", "model_index.json"]
  assert {*convert.wanted([*klein, *others])} == {*klein, others[0]}
  assert convert.wanted(["pytorch_model.bin"]) == []


def test_special_tokens_are_not_decoded(folder):
  words = qwen.load(folder / "tokenizer.json")
  ids = [*words.ids("red apple"), words.id_of(qwen.END)]
  assert words.decode(ids) == "red apple"

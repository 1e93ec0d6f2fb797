"""The methods that a config asks for, and what is refused."""

import pytest

from synthjax.adapt import few_shot_methods
from synthjax.adapt import few_shot_methods as methods
from synthjax.runtime.errors import UserError


def test_options_are_those_of_the_functions_below():
  known = methods.options_of("classifier")
  for name in ("order", "protocol", "weight_decay", "bias", "label_smoothing"):
    assert name in known
  assert not {"sets", "teacher", "validation", "progress"} & set(known)
  assert "order" not in methods.options_of("retrieval")
  assert {"per_class", "lr"} <= set(methods.options_of("retrieval"))
  assert methods.options_of("linear_probe") == ["max_steps"]


def test_the_protocol_of_the_run_is_that_of_methods_which_name_none():
  read = few_shot_methods.read(
    [
      dict(name="a", kind="classifier", strategy="rg16"),
      dict(
        name="b",
        kind="classifier",
        options=dict(order="real", protocol="paper"),
      ),
      dict(name="c", kind="coop"),
    ],
    protocol="released",
  )
  protocols = [each.options.get("protocol") for each in read]
  assert protocols == ["released", "paper", None]


@pytest.mark.parametrize(
  ("block", "words"),
  [
    (dict(kind="clasifier"), "did you mean 'classifier'"),
    (dict(kind="classifier", strategy="rg", options={"l": 1}), "There is no"),
    (
      dict(kind="classifier", strategy="b", options={"batchsize": 1}),
      r"methods\[0\].options.*did you mean 'batch_size'",
    ),
    (dict(kind="retrieval", options={"order": "mix"}), "'order'.*Allowed"),
    (
      dict(kind="classifier", strategy="b", options={"order": "synreal"}),
      "did you mean 'syn_real'",
    ),
    (
      dict(kind="classifier", strategy="b", options={"protocol": "papr"}),
      "did you mean 'paper'",
    ),
    (dict(kind="classifier"), "from generated images: give its strategy"),
    (dict(kind="coop", strategy="b"), "from real images: leave out"),
    (
      dict(kind="classifier", strategy="b", options={"order": "real"}),
      "leave out its strategy",
    ),
    (dict(kind="classifier", strategy="b", filter="clp"), "filter='clp'"),
    (dict(kind="coop", filter="clip"), "filter='clip'"),
  ],
)
def test_methods_that_make_no_sense_are_refused(block, words):
  with pytest.raises(UserError, match=words):
    few_shot_methods.read([dict(block, name="x")])


def test_names_are_unique_and_not_taken():
  coop_block = dict(name="x", kind="coop")
  for blocks in ([], [coop_block, coop_block]):
    with pytest.raises(UserError, match="each once"):
      few_shot_methods.read(blocks, taken=("zero_shot",))
  with pytest.raises(UserError, match="'zero_shot' is taken"):
    few_shot_methods.read(
      [dict(coop_block, name="zero_shot")], taken=("zero_shot",)
    )

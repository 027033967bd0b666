"""What defines a run."""

import dataclasses
from typing import Any

from charlm.errors import InputError
from charlm.options import (
  FRACTION,
  NOT_NEGATIVE,
  PATH,
  POSITIVE,
  UTF8,
  Allowed,
  Options,
  between,
  is_utf8,
  one_of,
  option,
)

# What a run has in common with its initial model.
SAME_AS_INITIAL = (
  "unit",
  "layer",
  "embedding_dim",
  "rnn_units",
  "num_layers",
)


def without_layer_norm(fields: dict[str, Any]) -> dict[str, Any]:
  """Drops an old field of a run or an exported model.

  Raises InputError: it has layer normalisation, which is gone.
  """
  if fields.get("layer_norm"):
    raise InputError(
      "its layers have layer normalisation: give it to commit 288d677 of "
      "charlm, the last one that reads it"
    )
  return {name: x for name, x in fields.items() if name != "layer_norm"}


@dataclasses.dataclass(frozen=True)
class Config(Options):
  """What defines a run; each field is a flag of `train.py`.

  Raises InputError: a value has the wrong type or is not allowed.
  """

  corpus: str = option(
    "shakespeare",
    "the name shakespeare, - for standard input, or files, globs and folders, "
    "separated by commas",
    Allowed(lambda value: value and is_utf8(value), f"{UTF8.words}, not empty"),
    group="The text",
  )
  unit: str = option(
    "character",
    "what is predicted: character, or byte, which takes any file",
    one_of("character", "byte"),
  )
  field: str = option(
    "", "in .jsonl files: the field that holds the text of each object", UTF8
  )
  skip_bad: bool = option(False, "leave out lines without a text in --field")
  raw: bool = option(False, "leave the text as it is: strip and drop no line")
  lowercase: bool = option(False, "convert the text to lower case")
  min_count: int = option(
    1,
    "characters that occur fewer than this many times in the corpus are read "
    "as [UNK]; the characters of an initial model are always kept",
    between(1),
  )
  eval_lines: int = option(
    0,
    "lines at the end that are the eval text, not trained on; 0: a tenth of "
    "the lines, 1,000 at most",
    between(0),
  )
  # Not 1: a single character leaves nothing to predict.
  eval_chars: int = option(
    0,
    "characters at the end that are the eval text; 0: --eval_lines decides",
    Allowed(lambda value: value == 0 or value > 1, "of 0, or 2 or more"),
  )
  valid_lines: int = option(
    0,
    "lines before the eval text that are the valid text: it chooses the best "
    "checkpoint, and is not trained on; -1: half the size of the eval text; "
    "0: no valid text, and the eval text chooses the best checkpoint",
    between(-1),
  )
  valid_chars: int = option(
    0,
    "characters before the eval text that are the valid text; 0: "
    "--valid_lines decides",
    Allowed(lambda value: value == 0 or value > 1, "of 0, or 2 or more"),
  )
  eval_corpus: str = option(
    "", "files that are the eval text, in place of the corpus' end", UTF8
  )
  valid_corpus: str = option(
    "", "files that are the valid text, in place of a part of the corpus", UTF8
  )
  # The fields above say which text a run has, and how it is split.
  recipe: str = option(
    "",
    "settings that are not given: a file of recipes/, or auto, which chooses "
    "by the size of the train text; by default the reference's",
    group="The recipe",
  )
  # Sizes and training are by default the reference's (benchmarks/README.md).
  embedding_dim: int = option(
    256,
    "size of a character's embedding",
    between(1, 2**16),
    group="The model",
  )
  layer: str = option(
    "gru",
    "recurrent layer: gru, lstm, or your own as FILE.py:CLASS "
    "(docs/your-model.md)",
    Allowed(str.isidentifier, "that is the name of a layer"),
  )
  rnn_units: int = option(
    512, "units of each recurrent layer", between(1, 2**16)
  )
  num_layers: int = option(1, "number of recurrent layers", between(1, 100))
  dropout_rate: float = option(
    0.0,
    "fraction of the outputs of the embedding and of each layer that training "
    "drops; 0 to 0.5 is usual",
    FRACTION,
  )
  precision: str = option(
    "float32",
    "float32, or bfloat16 for the products of layers and muon in training",
    one_of("float32", "bfloat16"),
  )
  init_from: str = option(
    "",
    "initial model of the new run: a run's folder, english, an .npz file of "
    "export.py, or a file of Keras weights",
    PATH,
  )
  seq_length: int = option(
    100, "inputs per window", between(1), group="Training"
  )
  batch_size: int = option(64, "windows per step, of all replicas", between(1))
  carry_state: bool = option(
    False,
    "each row of a batch continues the text where it stopped in the batch "
    "before, with the state that it had there (Keras' stateful)",
  )
  reset_rate: float = option(
    0.0,
    "with --carry_state: probability that a row starts a window from the zero "
    "state; usually 0.01 to 0.1",
    FRACTION,
  )
  epochs: int = option(
    10,
    "passes over the train text; with a constant learning rate a larger number "
    "extends a finished run",
    between(0),
  )
  max_steps: int = option(
    0, "largest number of steps; 0: as many as the epochs have", between(0)
  )
  # NumPy, which Keras seeds as well, takes no larger seed.
  seed: int = option(
    0, "seed of initial weights and of training's draws", between(0, 2**32 - 1)
  )
  optimizer: str = option(
    "adam",
    "adam, or muon for the layers' matrices and adam for the rest: fewer, "
    "slower steps, twice the rate for the output layer; add --weight_decay",
    one_of("adam", "muon"),
    group="The optimizer",
  )
  learning_rate: float = option(
    0.00125,
    "learning rate, or its peak; usually 0.0005 to 0.005, muon up to 0.012",
    POSITIVE,
  )
  schedule: str = option(
    "constant",
    "learning rate: constant, or cosine or linear, which fall to zero",
    one_of("constant", "cosine", "linear"),
  )
  warmup_steps: int = option(
    0,
    "with a schedule that falls: steps in which the learning rate first rises "
    "linearly from zero",
    between(0),
  )
  weight_decay: float = option(
    0.0,
    "decoupled weight decay (AdamW) of all weights but biases and, with "
    "muon, the embedding; usually 0.01 to 2",
    NOT_NEGATIVE,
  )
  clip_norm: float = option(
    0.0,
    "largest global norm of the gradient, above which the gradient is scaled "
    "down (Keras' global_clipnorm); usually 1; 0: no clipping",
    NOT_NEGATIVE,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.warmup_steps and self.schedule == "constant":
      raise InputError(
        "warmup_steps: give --schedule=cosine or linear, too, or "
        "--warmup_steps=0"
      )
    if self.reset_rate and not self.carry_state:
      raise InputError(
        "reset_rate needs a state to reset: give --carry_state, or "
        "--reset_rate=0"
      )
    # A second reader would find standard input at its end.
    texts = ",".join([self.corpus, self.eval_corpus, self.valid_corpus])
    if texts.split(",").count("-") > 1:
      raise InputError("standard input is read once: give - for one text only")
    if self.skip_bad and not self.field:
      raise InputError("skip_bad has no effect: give --field, too")
    only_characters = self.field or self.lowercase or self.min_count > 1
    if self.unit == "byte" and only_characters:
      raise InputError(
        "with unit byte there are no fields and no letters, and no byte is "
        "unknown: leave out --field, --lowercase and --min_count"
      )
    if self.eval_corpus and self.eval_chars:
      raise InputError(
        "the eval text is given twice: leave out --eval_corpus or --eval_chars"
      )
    if self.valid_corpus and (self.valid_lines or self.valid_chars):
      raise InputError(
        "the valid text is given twice: leave out --valid_corpus, or both "
        "--valid_lines and --valid_chars"
      )

  @property
  def keeps_text(self) -> bool:
    """Whether the text stays as it is, with blanks and empty lines."""
    return self.raw or self.unit == "byte"

  @property
  def encoding(self) -> str:
    """The encoding of the texts; bytes are characters from U+0000 to U+00FF."""
    return "latin-1" if self.unit == "byte" else "utf-8"

  def lowered(self, text: str) -> str:
    """Returns a text in lower case, if the corpus is converted to it."""
    return text.lower() if self.lowercase else text

  def num_steps(self, steps_per_epoch: int) -> int:
    """Returns the step at which training ends."""
    num_steps = self.epochs * steps_per_epoch
    return min(num_steps, self.max_steps or num_steps)

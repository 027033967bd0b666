"""The configuration of a run."""

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

# Fields that a run copies from its initial model.
SAME_AS_INITIAL = (
  "unit",
  "layer",
  "embedding_dim",
  "rnn_units",
  "num_layers",
)


# Fields that were removed: the value that leaves a run as it was, and the last
# commit that supports the others.
_REMOVED: dict[str, tuple[Any, str]] = {
  "layer_norm": (False, "288d677"),
  "field": ("", "71462d0"),
  "skip_bad": (False, "71462d0"),
}


def without_removed(fields: dict[str, Any]) -> dict[str, Any]:
  """Drops the removed fields of a run or an exported model.

  Raises InputError: the run used one of them.
  """
  for name, (unused, commit) in _REMOVED.items():
    if fields.get(name, unused) != unused:
      raise InputError(
        f"it used --{name}, which was removed: load it with commit {commit} of "
        "charlm, the last one that supports it"
      )
  return {name: x for name, x in fields.items() if name not in _REMOVED}


@dataclasses.dataclass(frozen=True)
class Config(Options):
  """The settings that define a run; each field is a flag of `train.py`.

  Raises InputError: a value has the wrong type or is not allowed.
  """

  corpus: str = option(
    "shakespeare",
    "shakespeare, - for standard input, or files, globs and folders, separated "
    "by commas",
    Allowed(
      lambda value: value and is_utf8(value), f"non-empty {UTF8.description}"
    ),
    group="The text",
  )
  unit: str = option(
    "character",
    "the unit of prediction: character, or byte, which reads any file",
    one_of("character", "byte"),
  )
  raw: bool = option(
    False, "keep the text unchanged: strip no lines and drop none"
  )
  lowercase: bool = option(False, "convert the text to lower case")
  min_count: int = option(
    1,
    "characters with fewer occurrences in the corpus become [UNK], except "
    "those of an initial model",
    between(1),
  )
  eval_lines: int = option(
    0,
    "lines at the end held out as the eval text; 0: a tenth of the lines, at "
    "most 1,000",
    between(0),
  )
  # Not 1: a single character leaves nothing to predict.
  eval_chars: int = option(
    0,
    "characters at the end held out as the eval text; 0: use --eval_lines",
    Allowed(lambda value: value == 0 or value > 1, "0, or at least 2"),
  )
  valid_lines: int = option(
    0,
    "lines before the eval text held out as the valid text, which chooses the "
    "best checkpoint; -1: half the size of the eval text; 0: no valid text, so "
    "that the eval text chooses the best checkpoint",
    between(-1),
  )
  valid_chars: int = option(
    0,
    "characters before the eval text held out as the valid text; 0: use "
    "--valid_lines",
    Allowed(lambda value: value == 0 or value > 1, "0, or at least 2"),
  )
  eval_corpus: str = option(
    "", "files with the eval text, instead of the end of the corpus", UTF8
  )
  valid_corpus: str = option(
    "", "files with the valid text, instead of a part of the corpus", UTF8
  )
  # The fields above select a run's text and its split.
  recipe: str = option(
    "",
    "defaults for the other flags: a file of recipes/, or auto, which chooses "
    "one by the size of the train text, and may add --init_from=english; if "
    "empty, the reference's",
    group="The recipe",
  )
  # The default sizes and training are the reference's (benchmarks/README.md).
  embedding_dim: int = option(
    256,
    "size of the character embeddings",
    between(1, 2**16),
    group="The model",
  )
  layer: str = option(
    "gru",
    "recurrent layer: gru, lstm, or your own as FILE.py:CLASS "
    "(docs/your-model.md)",
    Allowed(str.isidentifier, "the name of a layer"),
  )
  rnn_units: int = option(
    512, "units of each recurrent layer", between(1, 2**16)
  )
  num_layers: int = option(1, "number of recurrent layers", between(1, 100))
  dropout_rate: float = option(
    0.0,
    "dropout rate after the embedding and after each layer; usually 0 to 0.5",
    FRACTION,
  )
  precision: str = option(
    "float32",
    "float32, or bfloat16 for matrix products of fused layers (--gru) and muon "
    "in training; may be no faster on a CPU without instructions for it",
    one_of("float32", "bfloat16"),
  )
  init_from: str = option(
    "",
    "initial model of the new run: a run's folder, english, an .npz file from "
    "export.py, or a Keras weights file",
    PATH,
  )
  seq_length: int = option(
    100, "characters per window", between(1), group="Training"
  )
  batch_size: int = option(
    64, "windows per step, over all replicas", between(1)
  )
  carry_state: bool = option(
    False,
    "each row of a batch continues the same row of the previous batch, text "
    "and state (stateful in Keras)",
  )
  reset_rate: float = option(
    0.0,
    "with --carry_state: probability of resetting a row's state to zero before "
    "a window; usually 0.01 to 0.1",
    FRACTION,
  )
  epochs: int = option(
    10,
    "passes over the train text; 0: train no step. With a constant learning "
    "rate, raise it to extend a finished run",
    between(0),
  )
  max_steps: int = option(
    0,
    "limit on the number of steps, where the schedule ends, too; 0: no limit "
    "but --epochs",
    between(0),
  )
  # Keras also seeds NumPy, which accepts no larger seed.
  seed: int = option(
    0,
    "seed of the initial weights and of all random numbers in training",
    between(0, 2**32 - 1),
  )
  optimizer: str = option(
    "adam",
    "adam, or muon for the matrices of the layers and adam for the rest, with "
    "twice the rate for the output layer: fewer but slower steps, which can "
    "diverge without --weight_decay",
    one_of("adam", "muon"),
    group="The optimizer",
  )
  learning_rate: float = option(
    0.00125,
    "peak learning rate; usually 0.0005 to 0.005, with muon 0.003 to 0.012",
    POSITIVE,
  )
  schedule: str = option(
    "constant",
    "learning rate schedule: constant, or cosine or linear decay to zero",
    one_of("constant", "cosine", "linear"),
  )
  warmup_steps: int = option(
    0,
    "with cosine or linear: steps of linear warmup from zero",
    between(0),
  )
  weight_decay: float = option(
    0.0,
    "decoupled weight decay (AdamW) of all weights except biases and, with "
    "muon, the embedding; usually 0.01 to 2",
    NOT_NEGATIVE,
  )
  clip_norm: float = option(
    0.0,
    "clips the gradient to this global norm (global_clipnorm in Keras); "
    "usually 1; 0: no clipping",
    NOT_NEGATIVE,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.warmup_steps and self.schedule == "constant":
      raise InputError(
        "warmup_steps needs a schedule: give --schedule=cosine or linear, or "
        "--warmup_steps=0"
      )
    if self.reset_rate and not self.carry_state:
      raise InputError(
        "reset_rate needs a state to reset: give --carry_state, or "
        "--reset_rate=0"
      )
    # A second reader would find standard input empty.
    texts = ",".join([self.corpus, self.eval_corpus, self.valid_corpus])
    if texts.split(",").count("-") > 1:
      raise InputError(
        "standard input can be read only once: give - for one text only"
      )
    if self.unit == "byte" and (self.lowercase or self.min_count > 1):
      raise InputError(
        "unit byte reads files as they are: leave out --lowercase and "
        "--min_count"
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
    """Whether the text stays unchanged, with all whitespace and empty lines."""
    return self.raw or self.unit == "byte"

  @property
  def encoding(self) -> str:
    """The encoding of the texts; with unit byte, each byte is a character."""
    return "latin-1" if self.unit == "byte" else "utf-8"

  def lowered(self, text: str) -> str:
    """Returns the text, in lower case if the config has `lowercase`."""
    return text.lower() if self.lowercase else text

  def num_steps(self, steps_per_epoch: int) -> int:
    """Returns the total number of training steps."""
    num_steps = self.epochs * steps_per_epoch
    return min(num_steps, self.max_steps or num_steps)

"""What determines a trained model: the flags of `train.py` that change it."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

_FORMAT = 6


class InputError(ValueError):
  """Bad input: its text names the remedy, in one line for a terminal."""


class DivergedError(ArithmeticError):
  """The loss or the gradient is not finite."""


class LostRunError(RuntimeError):
  """A run's folder was taken away from the trainer that holds its lock."""


def _fields(group: str) -> Callable[[Any, str], Any]:
  """Returns what declares the fields of a group, under a title in `--help`."""
  return lambda default, text: dataclasses.field(
    default=default, metadata={"group": group, "help": text}
  )


_text = _fields("The text")
_model = _fields("The model")
_training = _fields("Training")
_optimizer = _fields("The optimizer")


@dataclasses.dataclass(frozen=True)
class Config:
  """Every field is a flag of `train.py` with the same name and default.

  Raises InputError: a value is of the wrong type or out of range.
  """

  corpus: str = _text(
    "shakespeare", "that name, or files, globs and folders, comma-separated"
  )
  raw: bool = _text(False, "leave the corpus as it is: no line is cleaned")
  lowercase: bool = _text(False, "lower-case the corpus")
  eval_lines: int = _text(1000, "lines held out at the corpus's end")
  eval_chars: int = _text(0, "characters held out instead; 0: eval_lines")
  valid_lines: int = _text(
    0, "lines before those, also left out, that choose the best checkpoint"
  )
  embedding_dim: int = _model(256, "size of a character's embedding")
  rnn_units: int = _model(512, "size of each GRU layer's state")
  num_layers: int = _model(1, "GRU layers")
  layer_norm: bool = _model(
    False, "normalise what each layer's state adds to its gates"
  )
  dropout_rate: float = _model(
    0.0, "share of the embedding's and each layer's outputs to drop"
  )
  precision: str = _model(
    "float32", "float32, or bfloat16 for the GRU's matrix products"
  )
  init_from: str = _model(
    "",
    "run, or file of Keras weights, to begin with; a run's characters keep "
    "their ids, new ones follow",
  )
  seq_length: int = _training(100, "characters of a training window")
  batch_size: int = _training(64, "windows in a step, over all replicas")
  carry_state: bool = _training(
    False, "each row of a batch goes on in the text where it stopped"
  )
  reset_rate: float = _training(
    0.0, "chance that a row of carry_state starts from the zero state instead"
  )
  epochs: int = _training(
    10, "passes over the text; at a constant rate more extend a run"
  )
  seed: int = _training(0, "of the weights, the shuffles and the dropout")
  learning_rate: float = _optimizer(0.00125, "largest step size of Adam")
  schedule: str = _optimizer(
    "constant", "constant, or cosine: to zero at the end"
  )
  warmup_steps: int = _optimizer(
    0, "steps in which a cosine's rate first rises"
  )
  weight_decay: float = _optimizer(
    0.0, "share of each weight but biases that a rate of 1 takes"
  )
  clip_norm: float = _optimizer(
    0.0, "largest norm of the gradient; 0: no clipping"
  )

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      holds, words = _ALLOWED.get(field.name, (lambda value: True, ""))
      if type(value) is not field.type:
        words = f"of type {getattr(field.type, '__name__', field.type)}"
      elif holds(value):
        continue
      raise InputError(f"{field.name} is {value!r}: give a value {words}")
    if self.warmup_steps and self.schedule == "constant":
      raise InputError("warmup_steps need a schedule: give --schedule=cosine")
    if self.reset_rate and not self.carry_state:
      raise InputError("reset_rate needs a state to reset: give --carry_state")


def is_utf8(text: str) -> bool:
  """Tells whether a text, such as a file's name, can be written as UTF-8."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _between(
  least: int, most: int = 2**31 - 1
) -> tuple[Callable[[Any], bool], str]:
  return lambda value: least <= value <= most, f"between {least} and {most:,}"


_SHARE = (lambda value: 0 <= value < 1, "in [0, 1)")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "of 0 or more")
_ALLOWED = {
  "corpus": (lambda value: value and is_utf8(value), "in UTF-8, not empty"),
  "init_from": (is_utf8, "in UTF-8"),
  "eval_lines": _between(1),
  "eval_chars": (lambda value: value == 0 or value > 1, "of 0, or 2 or more"),
  "valid_lines": _between(0),
  "seq_length": _between(1),
  "batch_size": _between(1),
  "reset_rate": _SHARE,
  "epochs": _between(0),
  "embedding_dim": _between(1, 2**16),
  "rnn_units": _between(1, 2**16),
  "num_layers": _between(1, 100),
  "dropout_rate": _SHARE,
  "learning_rate": (lambda value: 0 < value < math.inf, "above 0"),
  "schedule": (("constant", "cosine").__contains__, "of constant or cosine"),
  "warmup_steps": _between(0),
  "weight_decay": _NOT_NEGATIVE,
  "clip_norm": _NOT_NEGATIVE,
  "precision": (("float32", "bfloat16").__contains__, "of float32 or bfloat16"),
  "seed": (lambda value: 0 <= value < 2**32, "between 0 and 2**32 - 1"),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A config, and the SHA-256 of the text and the files that go with it."""

  config: Config
  corpus_sha256: str  # of the cleaned text
  vocabulary_sha256: str
  held_out_sha256: str
  valid_sha256: str  # of nothing where there is no such file

  def differences(self, other: "Experiment") -> list[str]:
    """Lists each field of the identity in which `other` differs from this."""
    mine, theirs = self._fields(), other._fields()
    # The corpus is told by its hash, not by where it came from. At a constant
    # rate, more epochs only extend what a run already is.
    ignored = {"corpus"}
    if self.config.schedule == "constant":
      ignored.add("epochs")
    reasons = {"epochs": ", and the schedule ends with them"}
    names = [n for n in mine if n not in ignored and mine[n] != theirs[n]]
    # What only follows from the other differences need not be told.
    names = [name for name in names if name not in _FILES_SHA256] or names
    return [
      f"{name} ({mine[name]} there, {theirs[name]} here{reasons.get(name, '')})"
      for name in names
    ]

  def to_json(self) -> str:
    """Returns the text of `config.json`."""
    return json.dumps({"format": _FORMAT} | self._fields(), indent=2) + "\n"

  @classmethod
  def from_json(cls, text: str) -> "Experiment":
    """Reads what `to_json` wrote.

    Raises InputError: not that, naming the field at fault.
    """
    try:
      fields = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise InputError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
      raise InputError("not a JSON object")
    if fields.pop("format", None) != _FORMAT:
      raise InputError(f"field format is not {_FORMAT}: from another version")
    hashes = [fields.pop(name, None) for name in _SHA256]
    for name, sha256 in zip(_SHA256, hashes, strict=True):
      if not isinstance(sha256, str) or len(sha256) != 64:
        raise InputError(f"field {name} is not 64 hexadecimal digits")
    return cls(_config_from(fields), *hashes)

  def _fields(self) -> dict[str, Any]:
    fields = dataclasses.asdict(self)
    return fields.pop("config") | fields


_SHA256 = [field.name for field in dataclasses.fields(Experiment)[1:]]
_FILES_SHA256 = _SHA256[1:]


def _config_from(fields: dict[str, Any]) -> Config:
  names = {field.name for field in dataclasses.fields(Config)}
  if missing := sorted(names - fields.keys()):
    raise InputError(f"field {missing[0]} is missing")
  if unknown := sorted(fields.keys() - names):
    raise InputError(f"field {unknown[0]} is unknown")
  return Config(**fields)

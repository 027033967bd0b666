"""What identifies a run, and how two starts of one run differ.

A start is one execution of train.py.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TypedDict

from charlm.config import Config
from charlm.errors import InputError

# Incremented only when older folders become unreadable: a new field needs no
# new format, since it reads as its default where it is missing.
_FORMAT = 6


class Start(TypedDict):
  """How and where a start ran: a line of `starts.jsonl`."""

  time: str  # in UTC, ISO 8601
  step: int  # that it continued from
  command: list[str]
  commit: str | None  # None: unknown
  versions: dict[str, str]  # by the name of a library, or python
  processor: str
  xla_flags: str | None
  devices: list[str]  # of one worker
  workers: int
  cores: int
  intra_op_threads: int  # 0: TensorFlow decides
  inter_op_threads: int
  # The models of the GPUs, as `gpu`, and versions by the name of a library.
  # Without a GPU it is empty.
  gpus: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The identity of a run: a config, and the hashes of texts and vocabulary."""

  config: Config
  corpus_sha256: str  # of the cleaned text, in its encoding
  vocabulary_sha256: str
  eval_sha256: str
  valid_sha256: str  # of the empty text if there is no valid text

  def changes(self, other: "Experiment") -> list[str]:
    """Lists the fields in which a later start's experiment differs."""
    before, fields = self._fields(), other._fields()
    # At a constant learning rate, more epochs only extend the run; any other
    # schedule depends on the number of steps.
    ignored = {n for n in _PATHS if bool(before[n]) == bool(fields[n])}
    ignored.add("recipe")  # its settings are compared one by one
    if all(before[n] == fields[n] for n in _SHA256):
      ignored.update(_SIZES_OF_PARTS)
    if self.config.schedule == "constant":
      ignored |= {"epochs", "max_steps"}
    now = {n: value for n, value in fields.items() if n not in ignored}
    found = differences(before, now)
    # The hashes other than the corpus' are named only if nothing else differs:
    # another number of eval lines changes them, too.
    others = [found[name] for name in found if name not in _SHA256[1:]]
    return others or list(found.values())

  @property
  def setting(self) -> tuple[object, ...]:
    """What runs that differ in the seed alone have in common."""
    fields = self._fields()
    # The hashes tell the parts apart.
    for name in ("seed", "recipe", *_SIZES_OF_PARTS):
      del fields[name]
    fields |= {name: bool(fields[name]) for name in _PATHS}
    return tuple(fields.items())

  def to_json(self) -> str:
    """Returns the text of `config.json`."""
    return json.dumps({"format": _FORMAT} | self._fields(), indent=2) + "\n"

  @classmethod
  def from_json(cls, fields: object) -> "Experiment":
    """Returns the experiment that `to_json` wrote, from its parsed JSON.

    Raises InputError: not what `to_json` writes; the message says why.
    """
    if not isinstance(fields, dict):
      raise InputError("not a JSON object")
    if fields.pop("format", None) != _FORMAT:
      raise InputError(f"written by another version (format is not {_FORMAT})")
    corpus, vocabulary, eval_text, valid_text = (
      _take_sha256(fields, name) for name in _SHA256
    )
    # A field that an older file lacks has its default.
    if unknown := sorted(fields.keys() - vars(Config()).keys()):
      raise InputError(f"field {unknown[0]} is unknown")
    return cls(
      config=Config(**fields),
      corpus_sha256=corpus,
      vocabulary_sha256=vocabulary,
      eval_sha256=eval_text,
      valid_sha256=valid_text,
    )

  def _fields(self) -> dict[str, object]:
    fields = dataclasses.asdict(self)
    return fields.pop("config") | fields


# The hash identifies a text, not the path: files may be moved. But whether a
# part has a file of its own decides the split.
_PATHS = ("corpus", "eval_corpus", "valid_corpus")
_SIZES_OF_PARTS = ("eval_lines", "eval_chars", "valid_lines", "valid_chars")
_SHA256 = [field.name for field in dataclasses.fields(Experiment)[1:]]


def _take_sha256(fields: dict[str, object], name: str) -> str:
  sha256 = fields.pop(name, None)
  if not isinstance(sha256, str) or len(sha256) != 64:
    raise InputError(f"field {name} is not a string of 64 characters")
  return sha256


def differences(
  one: Mapping[str, object],
  other: Mapping[str, object],
  words: tuple[str, str] = ("before", "now"),
) -> dict[str, str]:
  """Says, by name, how each field of `other` differs, if it does.

  Args:
    one: the fields to compare with; one that is missing reads as None.
    other: the fields that are compared.
    words: what follows the value of `one`, and that of `other`.
  """
  found = {}
  for name, value in other.items():
    if (before := one.get(name)) != value:
      found[name] = f"{name} ({before} {words[0]}, {value} {words[1]})"
  return found

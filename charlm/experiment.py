"""What identifies a run, and how two starts of one run differ.

A start is one execution of train.py.
"""

import dataclasses
import json
from typing import Any

from charlm.config import Config
from charlm.errors import InputError

# Incremented only when older folders become unreadable: a new field needs no
# new format, since it reads as its default where it is missing.
_FORMAT = 6


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The identity of a run: a config, and the hashes of texts and vocabulary."""

  config: Config
  corpus_sha256: str  # of the cleaned text, in its encoding
  vocabulary_sha256: str
  eval_sha256: str
  valid_sha256: str  # of the empty text if there is no valid text

  def differences(self, other: "Experiment") -> list[str]:
    """Lists the fields in which a later start's experiment differs."""
    before, now = self._fields(), other._fields()
    # The hash identifies the corpus, not the path: files may be moved. But
    # whether a part has a file of its own decides the split. At a constant
    # learning rate, more epochs only extend the run; another schedule ends
    # with the last step, so their number affects every step.
    paths = ("corpus", "eval_corpus", "valid_corpus")
    ignored = {name for name in paths if bool(before[name]) == bool(now[name])}
    if self.config.schedule == "constant":
      ignored |= {"epochs", "max_steps"}
    why = ", on which the schedule depends"
    reasons = {"epochs": why, "max_steps": why}
    why = "; its file is another one, or a cache is damaged: --verify_corpus"
    reasons |= {"eval_sha256": why, "valid_sha256": why}
    names = [n for n in now if n not in ignored and before[n] != now[n]]
    # The hashes of the run folder's files are named only if nothing else
    # differs: another number of eval lines, for one, changes them, too.
    names = [name for name in names if name not in _FILES_SHA256] or names
    return [
      difference(name, before[name], now[name], reasons.get(name, ""))
      for name in names
    ]

  def to_json(self) -> str:
    """Returns the text of `config.json`."""
    return json.dumps({"format": _FORMAT} | self._fields(), indent=2) + "\n"

  @classmethod
  def from_json(cls, fields: Any) -> "Experiment":
    """Returns the experiment that `to_json` wrote, from its parsed JSON.

    Raises InputError: not what `to_json` writes; the message says why.
    """
    if not isinstance(fields, dict):
      raise InputError("not a JSON object")
    if fields.pop("format", None) != _FORMAT:
      raise InputError(f"written by another version (format is not {_FORMAT})")
    hashes = [fields.pop(name, None) for name in _SHA256]
    for name, sha256 in zip(_SHA256, hashes, strict=True):
      if not isinstance(sha256, str) or len(sha256) != 64:
        raise InputError(f"field {name} is not a string of 64 characters")
    # A field that an older file lacks has its default.
    if unknown := sorted(fields.keys() - vars(Config()).keys()):
      raise InputError(f"field {unknown[0]} is unknown")
    return cls(Config(**fields), *hashes)

  def _fields(self) -> dict[str, Any]:
    fields = dataclasses.asdict(self)
    return fields.pop("config") | fields


_SHA256 = [field.name for field in dataclasses.fields(Experiment)[1:]]
_FILES_SHA256 = _SHA256[1:]


def difference(name: str, before: object, now: object, why: str = "") -> str:
  """Says how a value of this start differs from an earlier start's."""
  return f"{name} ({before} before, {now} now{why})"

"""Writes text with a trained model."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from charlm.data.reading import decode_chunks
from charlm.data.sources import Source
from charlm.data.text import codec
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.options import (
  Options,
  between,
  device_option,
  is_utf8,
  one_of,
  option,
)
from charlm.sampling.options import DrawOptions
from charlm.system.process import (
  DONE,
  import_quietly,
  print_in,
  run_command,
  warn,
)

if TYPE_CHECKING:  # it imports TensorFlow
  from charlm.sampling.generator import GenerativeModel

SEPARATOR = "-" * 20


@dataclasses.dataclass(frozen=True)
class _TextOptions(Options):
  """The flags that come before those of drawing."""

  run_dir: str = option(
    "runs/shakespeare", "folder of the run", group="The run"
  )
  checkpoint: str = option("latest", "latest, best, or a step")
  device: str = device_option()
  prefix: str = option(
    "", "text to continue; default: the start of a line", group="The text"
  )
  prefix_file: str | None = option(
    None, "file that holds the prefix, - for standard input"
  )
  stop: str = option("", "end a text before it would contain this string")
  num_chars: int = option(
    1000, "largest number of characters after the prefix", between(1, 10**8)
  )
  num_samples: int = option(
    1,
    "number of texts; a larger number adds texts and leaves the others as they "
    "are",
    between(1, 10**6),
  )
  seed: int = option(
    0, "the same seed gives the same texts", between(0, 2**64 - 1)
  )


@dataclasses.dataclass(frozen=True)
class SampleOptions(DrawOptions, _TextOptions):
  """The flags."""

  format: str = option(
    "text",
    "text, or jsonl: an object for each text, with the log-probability of each "
    "character",
    one_of("text", "jsonl"),
    group="Output",
  )
  stream: bool = option(False, "print the text while it is drawn")

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.stream and self.format == "jsonl":
      raise InputError("--stream prints no jsonl: leave out one of the two")
    if self.prefix and self.prefix_file:
      raise InputError("two prefixes: give --prefix or --prefix_file")
    for name in ("prefix", "stop"):
      if not is_utf8(getattr(self, name)):
        raise InputError(f"{name} is not UTF-8: check the terminal's encoding")


def main(argv: list[str]) -> int:
  """Samples; returns the exit code."""
  return run_command(sample, SampleOptions, argv, __doc__)


def sample(options: SampleOptions) -> int:
  """Samples as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  import_quietly("tensorflow", "keras")
  from charlm.runs.loading import load_model
  from charlm.runs.run_dir import RunDir
  from charlm.sampling.generator import GenerativeModel
  from charlm.system.devices import choose_device

  choose_device(options.device)
  run = RunDir(options.run_dir)
  model, _ = load_model(run, options.checkpoint)
  vocab, encoding = run.vocabulary(), codec(run.experiment().config.unit)
  # Bytes are characters here: those of the flags, and of what is written.
  print_in(encoding)
  stop = options.stop.encode().decode(encoding)
  prefix = options.prefix.encode().decode(encoding)
  if options.prefix_file:
    file = options.prefix_file
    chunks = Source(file, is_file=file != "-").read()
    prefix = "".join(decode_chunks(chunks, options.prefix_file, encoding))
  if unknown := unknown_characters(prefix or "\n", vocab):
    warn(
      f"not in the vocabulary: {' '.join(map(repr, unknown))}; the model reads "
      f"[UNK] for each{'' if prefix else ': give a --prefix'}"
    )
  generator = GenerativeModel(
    model,
    vocab,
    options.temperature,
    options.top_k,
    options.top_p,
    options.min_p,
  )
  if options.stream:
    _stream(options, generator, prefix, stop)
    return DONE
  samples = generator.sample(
    options.num_chars,
    prefix or "\n",
    options.num_samples,
    options.seed,
    stop,
  )
  if options.format == "jsonl":
    for i, sample in enumerate(samples):
      print(json.dumps({"sample": i, "prefix": prefix, **sample.to_dict()}))
  else:
    texts = (prefix + sample.text for sample in samples)
    print(f"\n{SEPARATOR}\n".join(texts))
  return DONE


def _stream(
  options: SampleOptions, generator: "GenerativeModel", prefix: str, stop: str
) -> None:
  for i in range(options.num_samples):
    print(f"\n{SEPARATOR}\n" if i else "", prefix, sep="", end="", flush=True)
    for piece in generator.stream(
      options.num_chars, prefix or "\n", i, options.seed, stop
    ):
      print(piece.text, end="", flush=True)
  print()


if __name__ == "__main__":
  sys.exit(main(sys.argv))

"""Generates text with a trained model."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterable

from charlm.config import Config
from charlm.data.cleaning import decode_chunks
from charlm.data.corpus import load_corpus
from charlm.data.sources import Source
from charlm.data.split import train_text
from charlm.data.text import Text
from charlm.errors import InputError
from charlm.options import PATH, UTF8, ModelOptions, one_of, option
from charlm.runs.run import Run, open_newest_run
from charlm.sampling.request import Request, fill_request
from charlm.system import process
from charlm.system.messages import warn


@dataclasses.dataclass(frozen=True)
class SampleOptions(Request, ModelOptions):
  """The flags."""

  device: str = option(
    "auto",
    "cpu, gpu, or auto: a GPU if found, for more than 8 texts without --stream",
    one_of("auto", "cpu", "gpu"),
  )
  prefix_file: str | None = option(
    None,
    "file of the prefix or, with --per_line, of a prefix per line; - for stdin",
    PATH,
    group="Input and output",
  )
  per_line: bool = option(
    False,
    "continue each line as it comes, by default from standard input",
  )
  format: str = option(
    "text", "text, or jsonl: an object for each text", one_of("text", "jsonl")
  )
  stream: bool = option(False, "print the text while it is drawn")
  memorised: str = option(
    "",
    "the run's corpus, to list passages of 30 characters or more that are "
    "copied from its train text",
    UTF8,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.stream and self.format == "jsonl":
      raise InputError("--stream prints no jsonl: leave out one of the two")
    if self.prefix and (self.prefix_file or self.per_line):
      raise InputError("leave out --prefix, or --prefix_file and --per_line")
    prefix_file = self.prefix_file or ("-" if self.per_line else "")
    if prefix_file == "-" and "-" in self.memorised.split(","):
      raise InputError("standard input is read once: give --memorised a file")


def main(argv: list[str]) -> int:
  """Samples; returns the exit code."""
  return process.run_command(
    command=lambda given: sample(SampleOptions(**given)),
    options=SampleOptions,
    argv=argv,
    usage=__doc__,
  )


def sample(options: SampleOptions) -> int:
  """Samples as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  # Before TensorFlow is imported, so that a wrong folder fails at once.
  run = open_newest_run(options.run_dir)
  config = run.config
  process.import_quietly("tensorflow", "keras")
  from charlm.model.layers import import_layer
  from charlm.runs.trained_model import load_model, say_which
  from charlm.sampling.generator import FEW_TEXTS, GenerativeModel
  from charlm.sampling.writer import Writer
  from charlm.system.devices import choose_device

  # --stream draws one text at a time.
  few = options.stream or options.num_samples <= FEW_TEXTS
  choose_device("cpu" if few and options.device == "auto" else options.device)
  model, step = load_model(run, options.checkpoint, import_layer(options.layer))
  # A byte-level model treats bytes as Latin-1 characters, so the output is
  # encoded as Latin-1; `fill_request` converts prefix and stop.
  process.set_output_encoding(config.encoding)
  values = {name: getattr(options, name) for name in vars(Request())}
  request = fill_request(Request(), values, config)
  file = "-" if options.prefix_file is None else options.prefix_file
  source = Source(file, is_file=file != "-")
  if options.prefix_file is not None and not options.per_line:
    request = _continuing(
      request=request, chunks=source.read(), name=source.name, config=config
    )
  generator = GenerativeModel(model, run.vocab)
  # Before any sampling, since the corpus may be refused.
  corpus = options.memorised
  trained_on = _train_text(run, corpus) if corpus else None
  writer = Writer(
    generator=generator,
    vocab=run.vocab,
    config=config,
    format=options.format,
    trained_on=trained_on,
  )
  say_which(run, options.checkpoint, step)
  if not options.per_line:
    writer.write(request, options.stream)
    return process.DONE
  exit_code = process.DONE
  with source.open() as lines:
    for number, line in enumerate(lines, 1):
      text = line.removesuffix(b"\n").removesuffix(b"\r")
      try:
        line_request = _continuing(
          request=request, chunks=[text], name=f"line {number}", config=config
        )
      except InputError as error:
        warn(f"left out: {error}")
        exit_code = process.INCOMPLETE
      else:
        writer.write(line_request, options.stream, number)
  return exit_code


def _continuing(
  request: Request, chunks: Iterable[bytes], name: str, config: Config
) -> Request:
  """Returns the request with the chunks as its prefix.

  Raises InputError: they are not UTF-8; the message starts with `name`.
  """
  prefix = "".join(decode_chunks(chunks, name, config.encoding))
  return dataclasses.replace(request, prefix=config.lowered(prefix))


def _train_text(run: Run, corpus: str) -> Text:
  """Returns the part of a corpus on which a run was trained.

  Warns if it is not the run's corpus; returns its corresponding part, or all of
  it if it is too short.
  """
  loaded = load_corpus(run.config, corpus)
  # No error: you may also search another text for passages.
  if loaded.sha256 != run.experiment.corpus_sha256:
    warn(f"{corpus} is not the corpus of {run.path}: passages may be missed")
  with contextlib.suppress(InputError):  # another corpus can be too short
    return train_text(loaded.text, run.config)
  return loaded.text


if __name__ == "__main__":
  sys.exit(main(sys.argv))

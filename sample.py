"""Writes text with a trained model."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable

from charlm.data.corpus import load_corpus, train_text
from charlm.data.reading import decode_chunks, read_lines
from charlm.data.sources import Source
from charlm.data.text import Text
from charlm.errors import InputError
from charlm.options import PATH, UTF8, ModelOptions, one_of, option
from charlm.runs.run_dir import RunDir
from charlm.sampling.options import Request, fill_request
from charlm.system import process


@dataclasses.dataclass(frozen=True)
class SampleOptions(Request, ModelOptions):
  """The flags."""

  prefix_file: str | None = option(
    None,
    "file of the prefix or, with --per_line, of a prefix per line; - for stdin",
    PATH,
    "Input and output",
  )
  per_line: bool = option(
    False,
    "answer prefixes as they come, one a line, by default from standard input; "
    "a line may be a JSON object of the flags from --prefix to --min_p",
  )
  format: str = option(
    "text", "text, or jsonl: an object for each text", one_of("text", "jsonl")
  )
  stream: bool = option(False, "print the text while it is drawn")
  memorised: str = option(
    "", "the run's corpus, to list what is copied from its train text", UTF8
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
  return process.run_command(sample, SampleOptions, argv, __doc__)


def sample(options: SampleOptions) -> int:
  """Samples as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  # Before the import of TensorFlow, so that a wrong folder is refused at once.
  run = RunDir(options.run_dir)
  vocab, config = run.vocabulary(), run.experiment().config
  process.import_quietly("tensorflow", "keras")
  from charlm.runs.loading import load_model
  from charlm.sampling.generator import GenerativeModel
  from charlm.sampling.writer import Writer
  from charlm.system.devices import choose_device

  choose_device(options.device)
  model, _ = load_model(run, options.checkpoint)
  # A byte-level model takes bytes as Latin-1 characters: output is encoded so,
  # and `fill_request` converts prefix and stop.
  process.set_output_encoding(config.encoding)
  values = {name: getattr(options, name) for name in vars(Request())}
  request = fill_request(Request(), values, config)
  if options.prefix_file is not None and not options.per_line:
    source = Source(options.prefix_file, is_file=options.prefix_file != "-")
    pieces = decode_chunks(source.read(), source.name, config.encoding)
    prefix = config.lowered("".join(pieces))
    request = dataclasses.replace(request, prefix=prefix)
  generator = GenerativeModel(model, vocab)
  # Before anything is drawn: the corpus may be refused.
  trained_on = _train_text(run, options.memorised)
  writer = Writer(generator, vocab, config, options.format, trained_on)
  if not options.per_line:
    writer.write(request, options.stream)
    return process.DONE
  file = options.prefix_file or "-"
  # A standard input that is closed is None.
  if file == "-" and sys.stdin and sys.stdin.isatty() and sys.stdout.isatty():
    # `readline` gives `input` a history and editing. Imported only here: its
    # import writes codes to the terminal.
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401
    return _converse(lambda number, line: writer.answer(number, line, request))
  with Source(file, is_file=file != "-").open() as stream:
    blocks = read_lines(stream, config)
    lines = enumerate((line for block in blocks for line in block), 1)
    # A list first: `all` would end at a line that is not understood.
    answered = [writer.answer(*numbered, request) for numbered in lines]
  return process.DONE if all(answered) else process.INCOMPLETE


def _train_text(run: RunDir, corpus: str) -> Text | None:
  """Returns the part of a corpus that a run was trained on; None if not given.

  For another corpus than the run's, warns, and returns the same part of it, or
  all of it where it is too short for that.
  """
  if not corpus:
    return None
  experiment = run.experiment()
  loaded = load_corpus(experiment.config, corpus)
  # No error: passages of another text may be looked for, too.
  if loaded.sha256 != experiment.corpus_sha256:
    process.warn(f"{corpus} is not the run's corpus: give that by --memorised")
  with contextlib.suppress(InputError):  # another one can be too short
    return train_text(loaded.text, experiment.config)
  return loaded.text


def _converse(answer: Callable[[int, bytes], object]) -> int:
  """Answers what is typed at a prompt; returns the exit code.

  Ctrl-D ends the conversation.
  """
  if isinstance(sys.stdin, io.TextIOWrapper):
    # So that what is not UTF-8 comes as it is: the refusal names its byte.
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
  number = 0
  while True:
    try:
      line = input("> ").encode("utf-8", "surrogateescape")
    except EOFError:
      break
    number += 1
    answer(number, line)
  print()
  return process.DONE


if __name__ == "__main__":
  sys.exit(main(sys.argv))

"""Writes text with a trained model."""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from typing import TYPE_CHECKING

from charlm.data.corpus import load_corpus, split_text
from charlm.data.lines import read_lines
from charlm.data.passages import find_passages
from charlm.data.reading import decode_chunks
from charlm.data.sources import Source
from charlm.data.text import Text, codec
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.options import UTF8, Options, device_option, one_of, option
from charlm.sampling.options import Request
from charlm.sampling.requests import parse_request
from charlm.system.process import (
  DONE,
  INCOMPLETE,
  import_quietly,
  interrupts_for_caller,
  print_in,
  run_command,
  warn,
)

if TYPE_CHECKING:  # it imports TensorFlow
  from charlm.runs.run_dir import RunDir
  from charlm.sampling.generator import GenerativeModel
  from charlm.sampling.sample import Sample

SEPARATOR = "-" * 20


@dataclasses.dataclass(frozen=True)
class _RunOptions(Options):
  """The flags that come before those of a request."""

  run_dir: str = option(
    "runs/shakespeare", "folder of the run", group="The run"
  )
  checkpoint: str = option("latest", "latest, best, or a step")
  device: str = device_option()


@dataclasses.dataclass(frozen=True)
class SampleOptions(Request, _RunOptions):
  """The flags."""

  prefix_file: str | None = option(
    None,
    "file that holds the prefix or, with per_line, one a line; - for standard "
    "input",
    group="Input and output",
  )
  per_line: bool = option(
    False,
    "answer prefixes as they come, one a line, by default from standard input; "
    "a line that begins with { is a JSON object with prefix and any flag of "
    "the groups The text and How it is drawn",
  )
  format: str = option(
    "text",
    "text, or jsonl: an object for each text, with the log-probability of each "
    "character",
    one_of("text", "jsonl"),
  )
  stream: bool = option(
    False, "print the text while it is drawn, as per_line always does"
  )
  memorised: str = option(
    "",
    "corpus of the run: say which passages of 30 characters or more of a text "
    "stand in the part of it that was trained on",
    UTF8,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.stream and self.format == "jsonl":
      raise InputError("--stream prints no jsonl: leave out one of the two")
    if self.prefix and self.prefix_file:
      raise InputError("two prefixes: give --prefix or --prefix_file")
    if self.memorised == "-" and (self.per_line or self.prefix_file == "-"):
      raise InputError(
        "standard input is read once: give a file as --memorised"
      )
    if self.prefix and self.per_line:
      raise InputError(
        "per_line reads prefixes from standard input or --prefix_file: leave "
        "out --prefix"
      )


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
  config = run.experiment().config
  encoding = codec(config.unit)
  # Bytes are characters here: those of the flags, and of what is written.
  print_in(encoding)
  names = [field.name for field in dataclasses.fields(Request)]
  request = Request(**{name: getattr(options, name) for name in names})
  request = dataclasses.replace(
    request,
    prefix=_read_prefix(options, encoding),
    stop=options.stop.encode().decode(encoding),
  )
  generator = GenerativeModel(model, run.vocabulary())
  trained_on = _train_text(run, options.memorised)
  writer = _Writer(
    generator, run.vocabulary(), encoding, options.format, trained_on
  )
  if not options.per_line:
    writer.write(request, options.stream)
    return DONE
  name = options.prefix_file or "-"
  if name == "-" and sys.stdin.isatty() and sys.stdout.isatty():
    return _converse(writer, request)
  with Source(name, is_file=name != "-").open() as file:
    blocks = read_lines(file, config.keeps_text)
    lines = enumerate(itertools.chain.from_iterable(blocks), 1)
    answered = [writer.answer(*numbered, request) for numbered in lines]
  return DONE if all(answered) else INCOMPLETE


def _read_prefix(options: SampleOptions, encoding: str) -> str:
  file = options.prefix_file
  if file is None or options.per_line:
    return options.prefix.encode().decode(encoding)
  chunks = Source(file, is_file=file != "-").read()
  return "".join(decode_chunks(chunks, file, encoding))


def _train_text(run: "RunDir", corpus: str) -> Text | None:
  """Returns the part of a corpus that a run was trained on; None if not given.

  Warns of another corpus than the run's.
  """
  if not corpus:
    return None
  experiment = run.experiment()
  config = experiment.config
  loaded = load_corpus(config, corpus)
  if loaded.sha256 != experiment.corpus_sha256:
    warn(f"warning: {corpus} is not the corpus that the run was trained on")
  # Where a part has files of its own, none of the corpus is held out for it.
  text = loaded.text
  valid = text if config.valid_corpus else None
  eval_text = text if config.eval_corpus else None
  return split_text(text, config, valid, eval_text).train


def _converse(writer: "_Writer", defaults: Request) -> int:
  """Answers what is typed at a prompt; returns the exit code.

  Ctrl-C ends a text or clears the line, Ctrl-D ends the conversation.
  """
  with contextlib.suppress(ImportError):
    # Here, since it writes codes to the terminal when it is imported. With it,
    # `input` has a history and lines that can be edited.
    import readline  # noqa: F401
  with interrupts_for_caller():
    for number in itertools.count(1):
      try:
        writer.answer(number, os.fsencode(input("> ")), defaults)
      except EOFError:
        break
      except KeyboardInterrupt:
        print()
  print()
  return DONE


@dataclasses.dataclass(frozen=True)
class _Writer:
  """Draws texts and prints them."""

  generator: "GenerativeModel"
  vocab: list[str]
  encoding: str  # of the texts, as `codec` returns it
  format: str
  trained_on: Text | None  # to be searched for passages of the texts

  def write(self, request: Request, as_drawn: bool) -> None:
    """Prints the texts that a single call asks for."""
    self._warn_of_unknown(request, "")
    if self.format == "jsonl":
      self._print_objects(request, {})
    elif as_drawn:
      for i in range(request.num_samples):
        print(f"{SEPARATOR}\n" if i else "", end="")
        self._print_as_drawn(request, i, "")
    else:
      texts = [sample.text for sample in self._draw(request)]
      print(f"\n{SEPARATOR}\n".join(request.prefix + text for text in texts))
      self._tell_memorised(texts, "", 0)

  def answer(self, number: int, line: bytes, defaults: Request) -> bool:
    """Prints the texts that a line asks for; tells whether it was understood.

    A line that was not gets an answer, too, which says why in JSON.
    """
    try:
      request = parse_request(line, defaults, self.encoding)
    except InputError as error:
      warn(f"line {number}: {error}")
      refusal = json.dumps({"line": number, "error": str(error)})
      print(SEPARATOR if self.format == "text" else refusal, flush=True)
      return False
    where = f"line {number}: "
    self._warn_of_unknown(request, where)
    if self.format == "jsonl":
      self._print_objects(request, {"line": number})
      return True
    for i in range(request.num_samples):
      self._print_as_drawn(request, i, where)
      print(SEPARATOR, flush=True)
    return True

  def _draw(self, request: Request) -> list["Sample"]:
    return self.generator.sample(
      request.num_chars,
      request.prefix or "\n",
      request.num_samples,
      request.seed,
      request.stop,
      request,
    )

  def _print_objects(self, request: Request, fields: dict[str, int]) -> None:
    samples = self._draw(request)
    texts = [sample.text for sample in samples]
    found = self.trained_on is not None and find_passages(
      texts, self.trained_on
    )
    for i, sample in enumerate(samples):
      start = fields | {"sample": i, "prefix": request.prefix}
      end = {"memorised": found[i].to_dict()} if found else {}
      print(json.dumps({**start, **sample.to_dict(), **end}), flush=True)

  def _print_as_drawn(self, request: Request, sample: int, where: str) -> None:
    print(request.prefix, end="", flush=True)
    text = ""
    for piece in self.generator.stream(
      request.num_chars,
      request.prefix or "\n",
      sample,
      request.seed,
      request.stop,
      request,
    ):
      print(piece.text, end="", flush=True)
      text += piece.text
    print(flush=True)
    self._tell_memorised([text], where, sample)

  def _tell_memorised(self, texts: list[str], where: str, first: int) -> None:
    if self.trained_on is None:
      return
    pairs = zip(texts, find_passages(texts, self.trained_on), strict=True)
    for i, (text, found) in enumerate(pairs, first):
      warn(f"{where}sample {i}: {found.in_words(text)}")

  def _warn_of_unknown(self, request: Request, where: str) -> None:
    if unknown := unknown_characters(request.prefix or "\n", self.vocab):
      remedy = "" if request.prefix else ": give a prefix"
      warn(
        f"{where}not in the vocabulary: {' '.join(map(repr, unknown))}; the "
        f"model reads [UNK] for each{remedy}"
      )


if __name__ == "__main__":
  sys.exit(main(sys.argv))

"""One execution of train.py (a start): makes or checks the run, then trains.

All workers run it. The folder of any worker but the chief is a temporary one,
and what it prints goes nowhere.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from charlm.config import Config
from charlm.data.corpus import Split, count_shared_lines
from charlm.data.text import sha256
from charlm.data.text_to_ids import Corpus
from charlm.data.vocabulary import SPECIAL, extend_vocab, unknown_characters
from charlm.errors import InputError
from charlm.experiment import Start, differences
from charlm.model.gru import FusedGRU
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.initial import load_initial, open_initial
from charlm.runs.metrics import Metrics
from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run import create_run, experiment_of, open_run
from charlm.runs.run_dir import RunDir
from charlm.system import choices
from charlm.system.cluster import Cluster
from charlm.system.devices import most_replicas
from charlm.system.process import say, warn, warn_unsaved
from charlm.training.build import build_worker_trainer
from charlm.training.options import Periods, TrainOptions
from charlm.training.progress_bar import ProgressBar
from charlm.training.replicas import Replicas
from charlm.training.session import Session
from charlm.training.trainer import Trainer

# Options that may differ between workers: paths, and what concerns one alone.
_OWN = ("run_dir", "corpus", "corpus_cache", "init_from", "profile_port")
# Their paths may differ, but not whether they are given: they change the split.
_PATHS = ("eval_corpus", "valid_corpus")

_MAX_HASHED = 2**28  # characters of a train text


def start_training(
  options: TrainOptions, corpus: Corpus, split: Split, cluster: Cluster
) -> int:
  """Trains; returns the exit code.

  Raises:
    InputError: bad input, or replicas whose sums are wrong.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: nothing can be saved, or the folder was taken away.
    OSError: the folder or the metrics cannot be written.
  """
  # Before a folder is made: workers must all train the same model.
  _check_equal(cluster, options, corpus, split)
  with contextlib.ExitStack() as stack:
    if not cluster.is_chief:
      options = stack.enter_context(_writing_nowhere(options))
    return _start(options, corpus, split, cluster)


@contextlib.contextmanager
def _writing_nowhere(options: TrainOptions) -> Iterator[TrainOptions]:
  """Drops what is printed; yields options with a temporary run's folder."""
  with (
    tempfile.TemporaryDirectory() as folder,
    open(os.devnull, "w") as nowhere,
    contextlib.redirect_stdout(nowhere),
  ):
    # The chief alone has the initial run: it sends vocabulary and weights.
    run_dir = os.path.join(folder, "run")
    yield dataclasses.replace(options, run_dir=run_dir, init_from="")


def _start(
  options: TrainOptions, corpus: Corpus, split: Split, cluster: Cluster
) -> int:
  """Opens the run, restores it, and continues it; returns the exit code."""
  config = options.config
  with contextlib.ExitStack() as stack:
    with cluster.together():
      run_dir, run = RunDir(options.run_dir), None
      if run_dir.exists():
        run = open_run(run_dir.path)
        run_dir = run.dir
        stack.enter_context(run_dir.locked())
      initial_run = open_initial(run_dir, config)
      initial_vocab = SPECIAL
      # This run's first: the initial one may be gone.
      if config.init_from and (begun := run or initial_run):
        initial_vocab = begun.vocab
      vocab = extend_vocab(initial_vocab, corpus.frequent(config.min_count))
      if vocab == SPECIAL:
        raise InputError(
          f"no character occurs {config.min_count} times: lower --min_count"
        )
      initial = load_initial(run_dir, initial_run, config, len(vocab))
    vocab = cluster.exchange(vocab)[0]
    trainer = build_worker_trainer(options, split, vocab, cluster, initial)
    experiment = experiment_of(config, corpus, vocab, split)
    replicas = Replicas(cluster, trainer)
    with cluster.together():
      if run:
        run = run.resume(experiment, trainer.batches.steps_per_epoch)
      else:
        # Locking makes the folder: only now, so that a refused start leaves
        # none.
        stack.enter_context(run_dir.locked())
        _warn_of_files(config, split, vocab)
        run = create_run(run_dir, experiment, vocab, split)
      say(_describe_text(config, corpus, split, vocab) + "\n")
      new = unknown_characters(vocab, initial_vocab)
      # A file of weights has no vocabulary to compare with.
      if initial and initial_vocab != SPECIAL and new:
        say(f"new      {new}: not in {config.init_from}\n")
      checkpoints = Checkpoints(
        run_dir,
        options.max_to_keep,
        model=trainer.model,
        optimizer=trainer.optimizer,
        train_state=trainer.train_state,
      )
      checkpoints.restore_latest()
    cluster.copy_from_chief(trainer.variables)
    replicas.check_start()
    step = trainer.step
    with cluster.together():
      # Saved before any metrics: a run that was killed early must have a
      # checkpoint to resume from.
      saved = checkpoints.save(step)
      metrics = Metrics(run_dir, run.config, step)
      start = _log_start(run_dir, step, trainer, cluster, saved)
    if options.profile_port:
      tf.profiler.experimental.server.start(options.profile_port)
    bar = ProgressBar(trainer.num_steps, trainer.batches.steps_per_epoch, step)
    bar.log(_describe(run_dir, trainer, start, options))
    return Session(
      periods=Periods(options, trainer.batches.steps_per_epoch),
      trainer=trainer,
      split=split,
      vocab=vocab,
      checkpoints=checkpoints,
      metrics=metrics,
      bar=bar,
      cluster=cluster,
      replicas=replicas,
    ).run()


def _check_equal(
  cluster: Cluster, options: TrainOptions, corpus: Corpus, split: Split
) -> None:
  """Checks that all workers were started alike.

  Raises InputError: it names what differs, and on which worker.
  """
  if cluster.num_workers == 1:
    return
  start = describe_start(0, [])
  # The code first: another commit may have other options.
  facts: dict[str, object] = {"commit": start["commit"], **start["versions"]}
  facts |= vars(options) | {"corpus_sha256": corpus.sha256}
  facts["eval_sha256"] = sha256(split.eval.data())
  facts["valid_sha256"] = sha256(split.valid.data())
  for name in _OWN:
    del facts[name]
  facts |= {name: bool(facts[name]) for name in _PATHS}
  # Every worker gets the facts of all, so all raise the same error.
  chiefs, *others = cluster.exchange(facts)
  for index, theirs in enumerate(others, 1):
    words = f"on {cluster.name(0)}", f"on {cluster.name(index)}"
    if found := differences(chiefs, theirs, words):
      named = ", ".join(found.values())
      raise InputError(f"workers differ: {named}: start all of them alike")


def _describe_text(
  config: Config, corpus: Corpus, split: Split, vocab: list[str]
) -> str:
  """Describes the corpus, its parts, and the vocabulary."""
  num_bytes = corpus.text.num_bytes(corpus.counts)
  size = f"{len(corpus.text):,} characters, {num_bytes:,} bytes"
  lines = [f"corpus   {config.corpus}: {size}, SHA-256 {corpus.sha256}"]
  for name, part in split._asdict().items():
    line = f"{name:<8} {len(part):,} characters"
    # Not for a large train text: to hash it would delay each start.
    if part is not split.train or len(part) <= _MAX_HASHED:
      line += f", {part.num_bytes():,} bytes, SHA-256 {sha256(part.data())}"
    lines += [line] if len(part) else []
  counts = dict(zip(corpus.text.characters, corpus.counts, strict=True))
  rare = [counts[char] for char in counts.keys() - set(vocab)]
  words = f"; rare, read as [UNK]: {len(rare):,} (occur {sum(rare):,} times)"
  lines.append(f"vocab    {len(vocab):,} entries{words if rare else ''}")
  return "\n".join(lines)


def _warn_of_files(config: Config, split: Split, vocab: list[str]) -> None:
  """Warns of what is odd in files of valid and eval texts."""
  for name, part in (("valid", split.valid), ("eval", split.eval)):
    files = getattr(config, f"{name}_corpus")
    if files and (number := count_shared_lines(split.train, part)):
      why = "are in the train text, too: the score may be too good"
      warn(f"{number:,} distinct lines of {files} {why}")
    if files and (unknown := unknown_characters(part.characters, vocab)):
      warn(f"characters of {files} that are read as [UNK]: {unknown}")


def _log_start(
  run: RunDir, step: int, trainer: Trainer, cluster: Cluster, saved: bool
) -> Start:
  """Logs how and where this start runs; warns if the last one ran otherwise.

  It logs only if a checkpoint was saved: a log without a checkpoint means that
  a checkpoint was lost.
  """
  start = describe_start(step, trainer.devices, cluster.num_workers)
  # Before `log_start` makes this start the last one.
  starts = run.starts()
  if starts and (names := start_differences(starts[-1], start)):
    why = "rounding may make the numbers differ from an uninterrupted run's"
    warn(f"this start differs from the last one in {', '.join(names)}: {why}")
  try:
    if saved:
      run.log_start(start)
  except OSError as error:
    warn_unsaved("this start could not be logged", error, run.path)
  return start


def _describe(
  run: RunDir, trainer: Trainer, start: Start, options: TrainOptions
) -> str:
  model, batches, end = trainer.model, trainer.batches, trainer.num_steps
  counts = [f"{layer.name} {layer.count_params():,}" for layer in model.layers]
  versions = [f"{name} {v}" for name, v in start["versions"].items()]
  return (
    f"model    {' + '.join(counts)} = {model.count_params():,} weights\n"
    f"steps    {end:,} (an epoch has {batches.steps_per_epoch:,}), "
    f"{batches.characters_per_step:,} characters each, from step "
    f"{start['step']:,}\n"
    f"devices  {_describe_devices(start, options)}\n"
    f"gru      {_describe_gru(trainer, options)}\n"
    f"products {_describe_precision(options)}\n"
    f"code     {', '.join(versions)}, commit {start['commit'] or 'unknown'}\n"
    f"run      {run.path}"
  )


def _describe_devices(start: Start, options: TrainOptions) -> str:
  """Returns the devices of this worker, and why they are those."""
  reason = "--device=cpu"
  if options.device != "cpu":
    found = "a" if choices.kind_of_device() == "GPU" else "no"
    reason = f"TensorFlow uses {found} GPU"
  if options.num_replicas:
    reason += f", --num_replicas={options.num_replicas}"
  threads = start["intra_op_threads"] or "automatic"
  devices = ", ".join(start["devices"])
  if start["workers"] > 1:
    devices += f" on each of {start['workers']} workers"
  elif not options.num_replicas and len(start["devices"]) < most_replicas():
    alone = choices.reason_for_one_replica(options, options.gru)
    why = f"best for {alone}" if alone else "the most that divide --batch_size"
    reason += f"; {len(start['devices'])} of up to {most_replicas()}: {why}"
  return f"{devices} ({reason}; intra-op threads: {threads})"


def _describe_gru(trainer: Trainer, options: TrainOptions) -> str:
  """Returns which GRU layer computes, and why."""
  kind = "fused" if isinstance(trainer.model.grus[0], FusedGRU) else "keras"
  auto = choices.GRU_KIND
  reason = auto.reason if kind == auto.here else choices.ONLY_FUSED
  if options.gru != "auto":
    reason = "--gru"
  if trainer.uses_xla:
    reason += "; compiled by XLA, for few windows"
  return f"{kind} ({reason})"


def _describe_precision(options: TrainOptions) -> str:
  """Returns the precision of the matrix products, and why."""
  tf32 = choices.TENSOR_FLOAT_32
  if options.precision == "float32" and tf32.here and not options.deterministic:
    return f"TensorFloat-32 if the GPU has it ({tf32.reason})"
  return f"{options.precision} (--precision)"

"""Trains a character-level language model; the same command resumes a run."""

import sys

from charlm.data.corpus import load_corpus, split_text
from charlm.system import process
from charlm.system.machine import has_bfloat16
from charlm.training.train_options import TrainOptions


def main(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  return process.run_command(train, TrainOptions, argv, __doc__)


def train(options: TrainOptions) -> int:
  """Trains as the flags say; returns the exit code.

  Raises:
    InputError: bad input, or replicas whose sums are wrong.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: the folder was taken away, or a worker was lost.
  """
  config = options.config
  cache = options.corpus_cache
  # Before the import of TensorFlow, so that a wrong path is refused at once.
  corpus = load_corpus(config, config.corpus, cache)
  split = split_text(
    corpus.text, config, lambda spec: load_corpus(config, spec, cache).text
  )
  process.import_quietly("tensorflow", "keras")
  from charlm.system.choices import kind_of_device, reason_for_one_replica
  from charlm.system.cluster import create_cluster
  from charlm.system.devices import choose_device
  from charlm.training.start import start_training

  choose_device(options.device, options.deterministic, start=False)
  on_cpu = kind_of_device() == "CPU"
  if on_cpu and config.precision == "bfloat16" and not has_bfloat16():
    process.warn("no bfloat16 instructions: --precision=float32 may be faster")
  # 0: `create_cluster` decides.
  default = 1 if reason_for_one_replica(config, options.gru) else 0
  replicas = options.num_replicas or default
  cluster = create_cluster(replicas, config.batch_size)
  with cluster.watched():
    exit_code = start_training(options, corpus, split, cluster)
  # Output that cannot be printed must not make a saved run an error.
  process.flush_or_drop_output()
  return exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))

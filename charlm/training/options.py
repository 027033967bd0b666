"""The flags of `train.py`: those that define a run, and those of one start.

A start is one execution of `train.py`.
"""

import dataclasses

from charlm.config import Config
from charlm.errors import InputError
from charlm.options import PATH, RunOptions, between, one_of, option


@dataclasses.dataclass(frozen=True)
class TrainOptions(RunOptions, Config):
  """The flags: what defines the run, then those of one start.

  Raises InputError: a value is not allowed.
  """

  corpus_cache: str = option(
    "",
    "folder for a file with the corpus' ids; default: they stay in memory or, "
    "if they take over 256 MiB, go into a file in ~/.cache/charlm",
    PATH,
    "The start",
  )
  verify_corpus: bool = option(
    False,
    "compare the ids in a cache file with the SHA-256 that was recorded when "
    "they were made; if it differs, encode the corpus anew",
  )
  num_replicas: int = option(
    0,
    "number of each worker's GPUs or, without a GPU, of CPU devices. 0: the "
    "largest divisor of --batch_size up to the number of GPUs or cores, or 1 "
    "CPU device where that is faster (docs/guide.md); with several workers: "
    "all GPUs of each, or 1 CPU device",
    between(0, 1024),
  )
  eval_every_steps: int = option(
    0, "steps between two evaluations; 0: an epoch", between(0)
  )
  checkpoint_every_steps: int = option(
    0, "steps between two checkpoints; 0: a quarter of an epoch", between(0)
  )
  summary_every_steps: int = option(
    0,
    "steps averaged in each training record of metrics.jsonl; 0: an 80th of an "
    "epoch, but at least 10",
    between(0),
  )
  max_to_keep: int = option(3, "latest checkpoints to keep", between(1))
  gru: str = option(
    "auto",
    "implementation of the GRU: fused, keras (cuDNN on a GPU), or auto: keras "
    "on a GPU, else fused, and always fused for bfloat16 and --layer_norm",
    one_of("auto", "fused", "keras"),
  )
  profile_steps: str = option(
    "",
    "first,last: profile the steps after first, up to last, for TensorBoard",
  )
  deterministic: bool = option(
    False, "repeat results bit for bit on GPUs, more slowly; CPUs always do"
  )

  cluster_timeout: int = option(
    300,
    "with several hosts: seconds to wait for the other workers",
    between(1, 10**6),
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    words = self.profile_steps.split(",")
    # A step has fewer than 20 digits; `int` raises at thousands of them.
    steps = [int(x) for x in words if x.strip().isdecimal() and len(x) < 20]
    rise = len(words) == len(steps) == 2 and 0 < steps[0] < steps[1]
    if self.profile_steps and not rise:
      raise InputError(
        f"profile_steps is {self.profile_steps}: give two steps above 0, the "
        "second one later, such as 10,20"
      )

  @property
  def config(self) -> Config:
    """What defines the run."""
    return Config(**{name: getattr(self, name) for name in vars(Config())})


class Periods:
  """Periods in steps: of metrics, of evaluations, and of checkpoints."""

  def __init__(self, options: TrainOptions, steps_per_epoch: int) -> None:
    # Enough points for a curve, but a mean of few steps is noise.
    self.metrics = options.summary_every_steps or max(10, steps_per_epoch // 80)
    self.evaluation = options.eval_every_steps or steps_per_epoch
    # What a kill can cost at most.
    self.checkpoint = options.checkpoint_every_steps or -(-steps_per_epoch // 4)

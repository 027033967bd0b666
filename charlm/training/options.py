"""The flags of `train.py`: some define the run, the others belong to a start.

A start is one execution of `train.py`.
"""

import dataclasses

from charlm.config import Config
from charlm.options import RunOptions, between, one_of, option


@dataclasses.dataclass(frozen=True)
class TrainOptions(RunOptions, Config):
  """The flags: those of `Config`, which define the run, then those of a start.

  Raises InputError: a value is not allowed.
  """

  num_replicas: int = option(
    0,
    "GPUs of each worker or, without a GPU, CPU devices; 0: by --batch_size, "
    "--rnn_units, and number of GPUs or cores, as docs/reference.md says",
    between(0, 1024),
    "Flags of a start, which may change on resume",
  )
  eval_every_steps: int = option(
    0,
    "steps between two evaluations; 0: an epoch or, with a valid text, a tenth "
    "of the run if that is less",
    between(0),
  )
  checkpoint_every_steps: int = option(
    0,
    "steps between two checkpoints; 0: a quarter of an epoch, and 100 at least "
    "on a GPU",
    between(0),
  )
  summary_every_steps: int = option(
    0,
    "steps averaged in a training record of metrics.jsonl; 0: an 80th of an "
    "epoch, 10 at least",
    between(0),
  )
  gru: str = option(
    "auto",
    "code of the gru and of the lstm: fused (charlm's), keras (cuDNN on a "
    "GPU), or auto: keras on a GPU, else fused",
    one_of("auto", "fused", "keras"),
  )
  profile_port: int = option(
    0,
    "port at which TensorBoard can capture a profile of the training; 0: none",
    between(0, 65_535),
  )

  @property
  def config(self) -> Config:
    """The flags that define the run."""
    return Config(**{name: getattr(self, name) for name in vars(Config())})

"""What the workers of a cluster check and do apart from training.

All run the same program. The folder of any worker but the chief is a temporary
one, and what it prints to standard output goes nowhere.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator

from charlm.data.corpus import Split
from charlm.data.text_to_ids import Corpus
from charlm.errors import InputError
from charlm.experiment import differences
from charlm.runs.provenance import describe_start
from charlm.system.cluster import Cluster
from charlm.system.devices import first_sum
from charlm.training.train_options import TrainOptions

# These may differ between workers.
_OWN = (
  "run_dir",
  "corpus",
  "corpus_cache",
  "init_from",
  "profile_port",
)
# These paths may differ, but all workers must give them or none: the parts of
# the text depend on that.
_PATHS = ("eval_corpus", "valid_corpus")


def check_alike(
  cluster: Cluster, options: TrainOptions, corpus: Corpus, split: Split
) -> None:
  """Checks that all workers were started alike.

  Raises:
    InputError: it names what differs, and on which worker.
    HungError: GPUs do not answer.
  """
  if cluster.num_workers == 1:
    return
  start = describe_start(0, [])
  # The code first: another commit may have other options.
  facts: dict[str, object] = {"commit": start["commit"], **start["versions"]}
  facts |= vars(options) | {"corpus_sha256": corpus.sha256}
  facts["eval_sha256"] = split.eval.sha256
  facts["valid_sha256"] = split.valid.sha256
  for name in _OWN:
    del facts[name]
  facts |= {name: bool(facts[name]) for name in _PATHS}
  # Every worker gets the facts of all, so all raise the same error.
  over = ", ".join(map(cluster.name, range(cluster.num_workers)))
  chiefs, *others = first_sum(lambda: cluster.exchange(facts), over)
  for index, theirs in enumerate(others, 1):
    words = f"on {cluster.name(0)}", f"on {cluster.name(index)}"
    if found := differences(chiefs, theirs, words):
      named = ", ".join(found.values())
      raise InputError(f"workers differ: {named}: start all of them alike")


@contextlib.contextmanager
def writing_nowhere(options: TrainOptions) -> Iterator[TrainOptions]:
  """Drops what is printed; yields options with a temporary run's folder."""
  with (
    tempfile.TemporaryDirectory() as folder,
    open(os.devnull, "w") as nowhere,
    contextlib.redirect_stdout(nowhere),
  ):
    # The chief alone has the initial model: it sends vocabulary and weights.
    run_dir = os.path.join(folder, "run")
    yield dataclasses.replace(options, run_dir=run_dir, init_from="")

"""What the workers of a cluster check before they train together."""

import hashlib
import json

from charlm.data.corpus import Split
from charlm.data.text_to_ids import Corpus
from charlm.errors import InputError
from charlm.runs.provenance import describe_start
from charlm.system.cluster import Cluster
from charlm.training.train_options import TrainOptions

# Paths, whose contents are compared, and what each worker has of its own.
_OWN = (
  "run_dir",
  "corpus",
  "corpus_cache",
  "eval_corpus",
  "valid_corpus",
  "init_from",
  "profile_port",
)


def check_alike(
  cluster: Cluster,
  *,
  options: TrainOptions,
  corpus: Corpus,
  split: Split,
  vocab: list[str],
  resumes: bool,
) -> None:
  """Checks that all workers were started alike, and see the same run.

  Raises InputError: this worker is not like the chief.
  """
  start = describe_start(0, [])
  facts = {n: value for n, value in vars(options).items() if n not in _OWN}
  texts = [corpus.sha256, *(part.sha256 for part in split)]
  facts |= {"commit": start["commit"], "versions": start["versions"]}
  facts |= {"texts": texts, "vocabulary": vocab, "resumes": resumes}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
  number = int.from_bytes(digest[:8])
  if cluster.of_chief(number) != number:
    run = "resumes a run" if resumes else "begins a run"
    raise InputError(
      f"{cluster.name(cluster.index)} {run} in {options.run_dir}, and is not "
      "like the chief: give all workers the same commit, versions, flags and "
      "texts, and a folder that all hosts share"
    )

"""What the environment says of a cluster."""

import json

import pytest
from workers import tf_config

from charlm.errors import InputError
from charlm.system.cluster_config import cluster_from_environment, read_config


@pytest.mark.parametrize(
  ("config", "words"),
  [
    ("{", "does not describe a cluster"),
    ("[]", "does not describe a cluster"),
    ("{}", "does not describe a cluster"),
    ('{"cluster": {"worker": null}, "task": {}}', "does not describe"),
    ('{"cluster": {"worker": ["a:1", "b:1"]}}', "'task'"),
    (tf_config(["a:1", "b:1"], 2), "does not describe a cluster"),
    (tf_config(["a:1", "b:1"], -1), "the index is -1"),
    (tf_config(["a:1", "b:1"], 1.9), "the index is 1.9"),
    (tf_config(["a:1", "b:1"], False), "the index is False"),
    (tf_config(["a:1", "a:1"], 0), "names an address twice"),
    (tf_config(["a", "b:1"], 0), "a is not HOST:PORT"),
    (tf_config(["a:+5", "b:1"], 0), r"a:\+5 is not HOST:PORT"),
    (tf_config(["[::1]:5", "b:1"], 0), "is not HOST:PORT"),
    ("[" * 100_000, "does not describe a cluster"),
    (tf_config(["a:1", "b:99999"], 0), "b:99999 is not HOST:PORT"),
    (tf_config(["a:1", "b:1"], 0).replace("worker", "ps"), "the role 'ps'"),
  ],
)
def test_a_wrong_config_is_refused(config: str, words: str) -> None:
  with pytest.raises(InputError, match=words) as error:
    read_config(config)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("kind", "place", "index"),
  [("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2), ("worker", "01", 2)],
)
def test_a_chief_comes_before_the_workers(
  kind: str, place: int | str, index: int
) -> None:
  roles = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
  text = json.dumps({"cluster": roles, "task": {"type": kind, "index": place}})
  assert read_config(text) == (["a:1", "b:1", "c:1"], index)


# The order of the hosts by name is not that of their numbers.
_SLURM = {
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_STEP_NODELIST": "n[2,10]",
  "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
  "SLURM_JOB_ID": "20017",
  "SLURM_PROCID": "1",
  "SLURMD_NODENAME": "n2",
  "SLURM_LOCALID": "1",
}


def test_slurm_names_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.delenv("TF_CONFIG", raising=False)
  for name, value in _SLURM.items():
    monkeypatch.setenv(name, value)
  found = ["n10:10017", "n10:10018", "n2:10017", "n2:10018"]
  assert cluster_from_environment() == (found, 3)
  for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_STEP_NODELIST"):
    with monkeypatch.context() as changed:
      changed.delenv(name)
      with pytest.raises(InputError, match="start the workers by srun"):
        cluster_from_environment()
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
  assert cluster_from_environment() is None


def test_a_cluster_of_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("TF_CONFIG", tf_config(["a:1"], 0))
  assert cluster_from_environment() is None

"""Which workers there are: from TF_CONFIG, or from SLURM's variables."""

import json
import os
import re

import tensorflow as tf

from charlm.errors import InputError

ROLE = "worker"
# Below the ports that systems give to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 10_000, 20_000
_ENOUGH_GPUS = 10**4


def cluster_from_environment() -> tuple[list[str], int] | None:
  """Returns the addresses of all workers, and which of them this one is.

  Raises InputError: what the environment says is no cluster.
  """
  if text := os.environ.get("TF_CONFIG"):
    addresses, index = read_config(text)
    # One worker needs no connection to itself.
    return (addresses, index) if len(addresses) > 1 else None
  if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
    return None
  try:
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
      port_base=_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _NUM_PORTS,
      # SLURM itself shows each task its GPUs alone. The resolver needs some
      # number of them, at least as large as that of the tasks.
      gpus_per_node=_ENOUGH_GPUS,
      gpus_per_task=1,
      auto_set_gpu=False,
    )
    addresses = resolver.cluster_spec().as_dict()[ROLE]
    # Not by SLURM_PROCID: the resolver sorts the hosts in another way.
    host, place = os.environ["SLURMD_NODENAME"], os.environ["SLURM_LOCALID"]
    here = [each for each in addresses if each.startswith(f"{host}:")]
    return addresses, addresses.index(here[int(place)])
  except (RuntimeError, LookupError, ValueError) as error:
    raise InputError(
      f"SLURM's variables do not describe a cluster ({type(error).__name__}: "
      f"{error}): start the workers by srun, or set TF_CONFIG"
    ) from error


def read_config(text: str) -> tuple[list[str], int]:
  """Reads `TF_CONFIG`; a role `chief` comes before the workers.

  Raises InputError: it is wrong.
  """
  try:
    config = json.loads(text)
    roles, task = config["cluster"], config["task"]
    if others := {*roles, task["type"]} - {"chief", ROLE}:
      raise ValueError(f"the role {min(others)!r} is not chief or worker")
    addresses = [*roles.get("chief", ()), *roles.get(ROLE, ())]
    place, given = int(task["index"]), task["index"]
    if place < 0 or place != float(given) or isinstance(given, bool):
      raise ValueError(f"the index is {given}")
    index = addresses.index(roles[task["type"]][place])
    for address in addresses:
      # No IPv6, whose addresses have more colons.
      matched = re.fullmatch(r"[^:]+:([1-9]\d{0,4})", address, re.ASCII)
      if not matched or int(matched[1]) >= 2**16:
        raise ValueError(f"{address} is not HOST:PORT")
  except Exception as error:  # rubbish raises all kinds
    raise InputError(
      f"TF_CONFIG does not describe a cluster ({type(error).__name__}: "
      f'{error}): give {{"cluster": {{"worker": ["HOST:PORT", "HOST:PORT"]}}, '
      '"task": {"type": "worker", "index": 0}}'
    ) from error
  if len(set(addresses)) < len(addresses):
    raise InputError("TF_CONFIG names an address twice: give each its own")
  return addresses, index

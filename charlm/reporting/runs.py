"""Finds runs in folders, and reads what training has written there.

No model is loaded, so a sweep is read in a second, also while it trains.
"""

import glob
import math
import os
import pathlib
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

from charlm.errors import InputError
from charlm.reporting.types import Curve, Run, State
from charlm.runs.records import Record, read_records
from charlm.runs.run import Run as OpenedRun
from charlm.runs.run import is_model, open_run, run_exists

# Without a new record for this long, an unfinished run counts as stopped.
_SECONDS_OF_A_RUNNING = 600
_MOST_POINTS = 100  # of a curve; more would only make the page larger
_MOST_NAMED = 5  # of the folders that hold no run


def find_runs(spec: str) -> tuple[list[OpenedRun], list[str]]:
  """Opens the runs in folders, at any depth.

  Args:
    spec: names of folders, globs, and runs shipped with charlm, separated by
      newlines or commas.

  Returns the runs, each once, and a line for each folder that is left out.

  Raises InputError: there is no run, or one that is named cannot be opened.
  """
  found: dict[str, OpenedRun] = {}  # by real path
  broken, empty = [], []
  for name in _names(spec):
    if is_model(pathlib.Path(name)):
      found[name] = open_run(name)
      continue
    paths, others = _runs_in(pathlib.Path(name))
    empty += others
    for path in paths:
      try:
        found.setdefault(os.path.realpath(path), open_run(path))
      except InputError as error:
        begins = str(error).startswith(str(path))
        broken.append(str(error) if begins else f"{path}: {error}")
  if not found:
    raise InputError(
      broken[0]
      if broken
      else f"there is no run in {', '.join(map(str, empty))}: train one, for "
      "example with train.py --run_dir=runs/shakespeare, or give "
      "--run_dir=english"
    )
  if empty:
    shown = [str(path) for path in empty[:_MOST_NAMED]]
    shown += ["..."] * (len(empty) > _MOST_NAMED)
    broken.append(f"no run in {', '.join(shown)}")
  return list(found.values()), broken


def _names(spec: str) -> list[str]:
  """Splits a list of folders, and expands its globs.

  Raises InputError: a glob without a match.
  """
  names = []
  # A folder's name may itself contain commas or wildcards.
  for line in spec.split("\n"):
    for name in [line] if os.path.exists(line) else line.split(","):
      path = os.path.expanduser(name.strip())
      if os.path.exists(path) or glob.escape(path) == path:
        names.append(path)
        continue
      matches = [x for x in sorted(glob.glob(path)) if os.path.isdir(x)]
      if not matches:
        raise InputError(f"{path} matches no folder: give another")
      names += matches
  return names


def _runs_in(
  folder: pathlib.Path,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Returns the runs at or below a folder, and the folders without any."""
  if run_exists(folder):
    return [folder], []
  runs, others = [], []
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if path.is_dir() and not path.is_symlink() and path.name[0] != ".":
      below, without = _runs_in(path)
      runs += below
      others += without
  return (runs, others) if runs else ([], [folder])


def metrics_sizes(spec: str) -> dict[pathlib.Path, int]:
  """Returns the sizes of the metrics of all runs, as `find_runs` finds them."""
  paths = [run.metrics_path for run in find_runs(spec)[0]]
  return {path: path.stat().st_size for path in paths if path.exists()}


def read_run(run: OpenedRun, name: str) -> Run:
  """Reads the metrics of a run that is finished or still training."""
  config = run.config
  records = read_records(run.metrics_path)
  starts = run.starts()
  start: Mapping[str, Any] = starts[-1] if starts else {}
  losses: dict[str, dict[int, float]] = {"train": {}, "valid": {}, "eval": {}}
  for record in records:
    if math.isfinite(record["loss"]):
      losses[record["split"]][record["step"]] = record["loss"]
  scored = losses[run.choosing_part]
  # Where there is no valid text, `eval.py` scores the latest checkpoint.
  chosen = max(scored, default=0)
  if run.has_valid_text:
    chosen = min(scored, key=scored.__getitem__, default=0)
  step = max((record["step"] for record in records), default=0)
  last_step = start.get("last_step")
  speeds = [
    record["characters_per_second"]
    for record in records
    if "characters_per_second" in record
  ]
  samples = {x["step"]: x["sample"] for x in records if "sample" in x}
  is_scored = chosen in losses["eval"] and step >= (last_step or 0)
  return {
    "name": name,
    "corpus": config.corpus,
    "recipe": config.recipe,
    "setting": {**dict(run.experiment.setting), "steps": last_step or step},
    "seed": config.seed,
    "state": _state(run, records, is_scored),
    "step": step,
    "last_step": last_step,
    "valid_loss": losses["valid"].get(chosen),
    "eval_loss": losses["eval"].get(chosen),
    "minutes": max((x["seconds"] for x in records), default=0) / 60,
    "num_weights": start.get("num_weights"),
    "characters_per_second": statistics.median(speeds) if speeds else None,
    "characters_per_step": config.batch_size * config.seq_length,
    "curves": {
      split: _curve(x for x in records if x["split"] == split)
      for split in losses
    },
    "sample": samples.get(chosen, ""),
  }


def _state(run: OpenedRun, records: list[Record], is_scored: bool) -> State:
  if records and not math.isfinite(records[-1]["loss"]):
    return "diverged"
  if is_scored:
    return "finished"
  changed = run.config_path.stat().st_mtime
  if records:
    changed = records[-1].get("time", 0)
  running = time.time() - changed < _SECONDS_OF_A_RUNNING
  return "running" if running else "stopped"


def _curve(records: Iterable[Record]) -> Curve:
  """Thins a curve evenly, but keeps its last point."""
  points = [x for x in records if math.isfinite(x["loss"])]
  stride = -(-len(points) // _MOST_POINTS) or 1
  kept = points[::-1][::stride][::-1]
  return {
    "steps": [x["step"] for x in kept],
    "losses": [round(x["loss"], 4) for x in kept],
    "minutes": [round(x["seconds"] / 60, 3) for x in kept],
  }


def short_names(paths: list[str]) -> list[str]:
  """Shortens each path to its last parts, as few as keep them distinct."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  for depth in range(1, max(map(len, parts)) + 1):
    names = [str(pathlib.PurePath(*path[-depth:])) for path in parts]
    if len(set(names)) == len(names):
      return names
  return paths

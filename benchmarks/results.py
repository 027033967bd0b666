"""Trains recipes, scores them by all protocols, and writes results/README.md.

    .venv/bin/python -m benchmarks.results --only fast --seeds 3

What was measured of each recipe is kept as JSON in `results/`; the tables and
the picture show all recipes that have such a file. A stopped run is resumed.
`--only` without a name trains nothing, and writes the page of what is there.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
from matplotlib.figure import Figure

from benchmarks import finetuning, layers, machine
from benchmarks.other_texts import NAMES, OTHER
from benchmarks.tables import table
from benchmarks.trainings import ROOT, call, keep, read
from charlm.config import Config
from charlm.data.corpus import load_corpus
from charlm.data.split import split_text
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.errors import InputError
from charlm.evaluation.ngram import Baseline, baselines, cells_of
from charlm.reporting.page import label_losses
from charlm.runs.metrics import Record, read_records
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_model

_FOLDER = ROOT / "results"
_RECIPES = ROOT / "recipes"
_TINY = "tinyshakespeare"  # how the recipes for this text begin
# Recipes for other texts than these two.
_ELSEWHERE = {"english", "enwik8", "finetune", "ptb", "text8"}
_PROTOCOLS = {
  "stream": [],
  "windows of 256": ["--protocol=windows", "--window=256"],
  "lines": ["--protocol=lines"],
  "dynamic": ["--dynamic"],
}
_RECIPES_HEADER = (
  "recipe",
  "weights",
  "characters",
  "hours",
  "seeds",
  "checkpoint",
  *_PROTOCOLS,
)
_BASELINES_HEADER = ("baseline", "nats", "bits", "MiB")
_OTHER_HEADER = (
  "text",
  "characters",
  "vocabulary",
  "defaults",
  "auto",
  "best found",
  "n-grams",
  "xz",
  "minutes",
)
_FINETUNING_HEADER = (
  "text",
  "seeds",
  "valid: random",
  "english",
  "gain",
  "eval: random",
  "english",
  "gain",
  "begins",
  "n-grams",
  "time",
)


def measure(recipe: str, corpus: pathlib.Path, num_seeds: int) -> None:
  """Trains a recipe with each seed and writes what came of it.

  With 0 seeds it takes as many as were measured before, or one.
  """
  path = _FOLDER / f"{recipe}.json"
  if not num_seeds:
    num_seeds = max(1, len(read(path).get("runs", [])))
  runs = [_measure_run(recipe, corpus, seed) for seed in range(num_seeds)]
  result = {"corpus": corpus.name, "machine": machine.describe(), "runs": runs}
  keep(path, result)


def _measure_run(
  recipe: str, corpus: pathlib.Path, seed: int
) -> dict[str, Any]:
  run_dir = ROOT / "runs" / "results" / f"{recipe}-{seed}"
  flags = [f"--corpus={corpus}", f"--flagfile={_RECIPES / recipe}.flags"]
  call("train.py", f"--run_dir={run_dir}", *flags, f"--seed={seed}")
  run = open_run(run_dir)
  config = run.config
  checkpoint = "best" if config.valid_lines else "latest"
  scores = {}
  for protocol, args in _PROTOCOLS.items():
    if protocol != "dynamic" or config.valid_lines:
      args = [*args, f"--run_dir={run_dir}", f"--checkpoint={checkpoint}"]
      scores[protocol] = json.loads(call("eval.py", *args, "--json"))
  records = read_records(run.metrics_path)
  per_step = config.batch_size * config.seq_length
  # The last record is of the step that was scored at the end.
  last = max(records, key=lambda record: record["step"])
  return {
    "seed": seed,
    "checkpoint": checkpoint,
    "config": json.loads(run.experiment.to_json()) | {"corpus": corpus.name},
    "num_weights": load_model(run, "latest")[0].count_params(),
    "num_characters": last["step"] * per_step,
    "hours": last["seconds"] / 3600,
    "scores": scores,
    "curve": _curve(records, per_step),
  }


def _curve(records: list[Record], per_step: int) -> list[dict[str, float]]:
  """Returns each evaluation's loss, and the mean training loss before it."""
  curve: list[dict[str, float]] = []
  train: list[float] = []
  has_valid = any(record["split"] == "valid" for record in records)
  loss_name = "valid_loss" if has_valid else "loss"
  for record in records:
    if record["split"] == "train":
      train.append(record["loss"])
    elif record["split"] == ("valid" if has_valid else "eval"):
      curve.append(
        {
          "num_characters": record["step"] * per_step,
          loss_name: record["loss"],
          "train_loss": statistics.mean(train),
        }
      )
      train = []
  return curve


def measure_baselines(corpus: pathlib.Path) -> list[Baseline]:
  """Scores a corpus' eval text by n-grams and by xz."""
  tiny = corpus.stem == _TINY
  config = Config(raw=tiny, eval_chars=111_540 if tiny else 0)
  loaded = load_corpus(config, str(corpus))
  split = split_text(loaded.text, config)
  vocab = extend_vocab(SPECIAL, loaded.text.characters)
  return baselines(
    str(split.train),
    str(split.eval),
    vocab=vocab,
    encoding=split.train.encoding,
  )


def to_markdown(page: str, tables: dict[str, str]) -> str:
  """Returns `results/README.md` with new tables, each between two marks."""
  for name, lines in tables.items():
    before, rest = page.split(f"<!-- {name} -->\n")
    _, after = rest.split("<!-- end -->\n", 1)
    page = f"{before}<!-- {name} -->\n\n{lines}\n\n<!-- end -->\n{after}"
  return page


def _other_row(text: dict[str, Any]) -> list[str]:
  order = text["ngram"][0].rpartition(" ")[2]
  return [
    text["name"],
    f"{text['num_characters']:,}",
    f"{text['vocabulary']:,}",
    _nats(text, "defaults"),
    *_auto_and_best(text),
    f"{text['ngram'][1]:.4f} ({order})",
    f"{text['xz']:.4f}",
    _minutes(text),
  ]


def _minutes(text: dict[str, Any]) -> str:
  if "minutes" in text:
    return f"{text['minutes']:.1f}"
  estimate = text.get("estimated_minutes")
  return f"about {estimate:.1f}" if estimate else ""


def _auto_and_best(text: dict[str, Any]) -> list[str]:
  """Returns the cells of both losses, with those of the valid text."""
  settings = text["settings"]
  best = min(settings, key=lambda name: settings[name]["valid_loss"])
  if best == "auto":
    return [_nats(text, "auto"), ""]
  return [
    f"{_nats(text, name)} ({settings[name]['valid_loss']:.4f})"
    for name in ("auto", best)
  ]


def _nats(text: dict[str, Any], setting: str) -> str:
  loss = _loss(text, setting)
  return "" if loss is None else f"{loss:.4f}"


def _loss(text: dict[str, Any], setting: str) -> float | None:
  run = text["settings"].get(setting)
  return float(run["loss"]) if run else None


def _row(recipe: str, result: dict[str, Any]) -> list[str]:
  first = result["runs"][0]
  row = [f"`{recipe}`", f"{first['num_weights']:,}"]
  row += [f"{first['num_characters'] / 1e6:.0f} M", f"{first['hours']:.2f}"]
  row += [str(len(result["runs"])), first["checkpoint"]]
  return row + [_score(result["runs"], protocol) for protocol in _PROTOCOLS]


def _score(runs: list[dict[str, Any]], protocol: str) -> str:
  scores = [run["scores"].get(protocol) for run in runs]
  if None in scores:
    return ""
  values = [score["log_perplexity"] for score in scores]
  mean = f"{statistics.mean(values):.4f}"
  if len(values) > 1:
    return f"{mean}, spread {max(values) - min(values):.4f}"
  low, high = scores[0]["interval"]
  return f"{mean} ({low:.3f} to {high:.3f})"


def plot_sizes(others: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws each text's losses over its size, as differences to n-grams.

  The sizes of a text have different eval texts, so the losses themselves cannot
  be compared.
  """
  figure = Figure(figsize=(9, 5), layout="constrained")
  axes = figure.subplots()
  kinds = dict.fromkeys(text["name"].partition("-")[0] for text in others)
  for i, kind in enumerate(kinds):
    for setting, style in {"auto": "o-", "defaults": "x--"}.items():
      x, y = [], []
      for text in others:
        loss = _loss(text, setting)
        if text["name"].startswith(f"{kind}-") and loss is not None:
          x.append(text["num_characters"])
          y.append(loss - text["ngram"][1])
      label = kind if setting == "auto" else None
      axes.plot(x, y, style, color=f"C{i}", label=label)
  axes.axhline(0, color="gray", linewidth=1)
  axes.set_xscale("log")
  axes.set_xlabel("characters of the train text")
  axes.set_ylabel("nats per character above the best n-grams")
  axes.set_title("auto: solid; defaults: dashed")
  axes.legend()
  figure.savefig(path)


def _chosen_by(point: dict[str, float]) -> float:
  """Returns the loss of the valid text or, without one, of the eval text."""
  return point.get("valid_loss") or point["loss"]


def plot_curves(results: dict[str, Any], path: pathlib.Path) -> None:
  """Draws the losses of each recipe's first seed over characters."""
  figure = Figure(figsize=(9, 5), layout="constrained")
  axes = figure.subplots()
  curves = {name: r["runs"][0]["curve"] for name, r in results.items()}
  for recipe, curve in curves.items():
    x = [point["num_characters"] / 1e6 for point in curve]
    (line,) = axes.plot(x, [_chosen_by(p) for p in curve], label=recipe)
    train = [point["train_loss"] for point in curve]
    axes.plot(x, train, ":", color=line.get_color())
  # The training losses begin far above, as means of all that an epoch saw.
  points = [point for curve in curves.values() for point in curve]
  axes.set_ylim(top=max(map(_chosen_by, points)))
  axes.set_xlabel("million characters seen")
  label_losses(axes, axes, "character (dotted: train)")
  axes.set_xscale("log")
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path)


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  recipes = sorted(
    path.stem
    for path in _RECIPES.glob("*.flags")
    if path.stem not in _ELSEWHERE and not path.stem.startswith("text-")
  )
  parser = argparse.ArgumentParser("results.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=recipes, default=recipes)
  parser.add_argument(
    "--seeds",
    type=int,
    default=0,
    choices=range(100),
    metavar="N",
    help="number of seeds; by default that of the last measurement",
  )
  parser.add_argument(
    "--data",
    type=pathlib.Path,
    default=ROOT.parent / "shared" / "data",
    help="folder of shakespeare.txt and tinyshakespeare.txt",
  )
  args = parser.parse_args(argv[1:])
  try:
    corpora = set()
    for recipe in args.only:
      text = _TINY if recipe.startswith(_TINY) else "shakespeare"
      corpora.add(args.data / f"{text}.txt")
      measure(recipe, args.data / f"{text}.txt", args.seeds)
    _write({corpus.name: measure_baselines(corpus) for corpus in corpora})
  except (InputError, subprocess.CalledProcessError) as error:
    parser.error(str(error))
  return 0


def _write(baselines_of: dict[str, list[Baseline]]) -> None:
  """Writes the tables and the pictures of all that was measured.

  The table of a text's baselines stays if they are not given.
  """
  results = {path.stem: read(path) for path in sorted(_FOLDER.glob("*.json"))}
  others = [x for name in NAMES if (x := read(OTHER / f"{name}.json"))]
  plot_curves(results, _FOLDER / "curves.svg")
  plot_sizes(others, _FOLDER / "sizes.svg")
  layers.plot(_FOLDER / "layers.svg")
  tuned = map(read, sorted((_FOLDER / "finetuning").glob("*.json")))
  of_layers = sorted((_FOLDER / "layers").glob("*.json"))
  measured = results | {text["name"]: text for text in others}
  measured |= {f"{text['name']}, fine-tuning": text for text in tuned}
  measured |= {f"{path.stem}, layers": read(path) for path in of_layers}
  tables = {
    "other texts": table(_OTHER_HEADER, map(_other_row, others)),
    "layers": table(layers.HEADER, layers.rows()),
    "fine-tuning": table(_FINETUNING_HEADER, finetuning.rows()),
    "machines": _machines(measured),
  }
  for corpus in {result["corpus"] for result in results.values()}:
    rows = [
      _row(recipe, result)
      for recipe, result in results.items()
      if result["corpus"] == corpus
    ]
    tables[f"recipes of {corpus}"] = table(_RECIPES_HEADER, rows)
  for corpus, scored in baselines_of.items():
    rows = [cells_of(baseline) for baseline in scored]
    tables[f"baselines of {corpus}"] = table(_BASELINES_HEADER, rows)
  page = _FOLDER / "README.md"
  page.write_text(to_markdown(page.read_text(), tables))


def _machines(measured: dict[str, dict[str, Any]]) -> str:
  """Returns a line for each machine: what was measured on it."""
  names: dict[str, list[str]] = {}
  for name, result in measured.items():
    words = machine.in_words(result["machine"])
    names.setdefault(words, []).append(f"`{name}`")
  lines = (f"- {words}: {', '.join(each)}" for words, each in names.items())
  return "\n".join(lines)


if __name__ == "__main__":
  sys.exit(main(sys.argv))

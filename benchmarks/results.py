"""Trains recipes, scores them by all protocols, and writes results/README.md.

    .venv/bin/python -m benchmarks.results --only fast --seeds 3

What was measured of each recipe is kept as JSON in `results/`; the tables and
the picture show all recipes that have such a file. A stopped run is resumed.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
from matplotlib.figure import Figure

from benchmarks import finetuning, machine
from benchmarks.other_texts import NAMES, OTHER, call
from benchmarks.tables import table
from charlm.config import Config
from charlm.data.corpus import load_corpus, split_text
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.errors import InputError
from charlm.evaluation.ngram import Baseline, baselines, cells_of
from charlm.reporting.figures import label_losses
from charlm.runs.metrics import Record, read_records
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_model

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "results"
_RECIPES = _ROOT / "recipes"
_TINY = "tinyshakespeare"  # how the recipes for this text begin
# Recipes for other texts than these two.
_ELSEWHERE = {"english", "enwik8", "finetune", "ptb", "text8"}
_PROTOCOLS = {
  "stream": [],
  "windows of 256": ["--protocol=windows", "--window=256"],
  "lines": ["--protocol=lines"],
  "dynamic": ["--dynamic"],
}
_INTRODUCTION = """\
`make results` trains the recipes, which takes hours. It writes the JSON files
beside this page, and then this page. [BUILD.md](../BUILD.md#commands) has the
commands.

A score is the log perplexity of the eval text, in nats per character. A nat is
1.4427 bits. [Protocols](../docs/reference.md#protocols) describes how a text is
scored. The protocol `lines` counts a line of a few characters as much as a long
one, and tinyshakespeare.txt has many short lines.

- *characters*: those of all training steps.
- *hours*: of the first seed, on two cores, beside other work of the machine.
  Rows with the checkpoint `best` leave the evaluations out.
- *checkpoint*: `best` is the one with the lowest loss on the valid lines. A
  recipe without valid lines has only the `latest`.
- scores: of one seed, the score and its 95 % confidence interval; of several
  seeds, their mean and the *spread*, the largest difference between two.

The baselines score the same text by Kneser-Ney n-grams and by the compressor
xz. Both know all text before the eval text, also the valid lines. Their last
column is the memory that each must keep: the tables of counts, or the text
itself."""
# Where each text comes from, and with what its rows may be compared.
_TEXTS = {
  "shakespeare.txt": """\
The text of the reference's notebook. It is not part of this repository, and no
place is known from which it can be fetched: without it, these rows cannot be
repeated. Its SHA-256 is
`923792ec444f566c378459a416840e8daed040674b77e6867002c5c4c112bc0f`.
The eval text is its last 1,000 lines.""",
  "tinyshakespeare.txt": """\
The file `input.txt` of karpathy/char-rnn, as in the guide under [Repeat a
result](../docs/guide.md#repeat-a-result). Its SHA-256 is
`86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed`.
The eval text is its last 111,540 characters, as in nanoGPT. The settings were
chosen on valid lines, while earlier scores on the eval text were in view.

Published losses of transformers on this eval text, predicted in windows of 256
characters, are 1.4697 ([nanoGPT](https://github.com/karpathy/nanoGPT), 10.65 M
weights), 1.4645
([nanogpt-modernization](https://github.com/Ridwan1642/nanogpt-modernization),
10.67 M) and 1.432 (zenith, 10.7 M, in disjoint windows). Each is the lowest of
a training, chosen on the eval text itself. Only the column *windows of 256* can
be compared with them.""",
}
_OTHERS = """\
`.venv/bin/python -m benchmarks.other_texts` makes these texts, of which the
trials behind `--recipe=auto` ([LOG.md](../recipes/LOG.md)) chose the recipes by
the valid text alone. The table gives nats per character of the eval text, with
one seed: by the defaults of `train.py`, by `--recipe=auto`, by the best setting
found for this text, by the best n-gram model (its order in parentheses), and by
xz. Where another setting than the recipe's was the best on the valid text, both
losses on that text stand in parentheses. N-grams and xz were given the
train text, or its last 20 million characters.
On source code xz is better than the models, since long passages repeat there.
The eval text of linux-100M has near copies of the files right before it, which
n-grams and xz remember.
*Characters* counts the train text. The losses are of trainings on one core, and
the defaults of dictionary-10M in part on two;
*minutes* are those of `auto` on two cores, from the start of `train.py` to its
end; with *about*, they are its own estimate after a minute."""
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
_FINETUNING = """\
`.venv/bin/python -m benchmarks.finetuning` trains on texts that the model of
[broad English](../models/README.md) has not seen: by `--recipe=auto` from
random weights, and by `--recipe=auto --init_from=english`. A *gain* is the
difference; in parentheses it is divided by its standard error over the seeds.
*Begins* is the loss of the valid text before the first step, and *n-grams* are
those that `train.py` names beside it. *Time* is that of fine-tuning divided by
that of the training from random weights, both on one core, beside other work.

The texts are Ariosto's Orlando Furioso in Rose's translation, novels of about
1915, two manuals of Debian, Python's standard library, the same manuals in
German, and the Hebrew Bible without vowel points. The recipe was chosen by the
valid text of others ([LOG.md](../recipes/LOG.md))."""
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
_CURVES = """\
Solid lines are the losses of the eval text, dotted lines the mean training
losses of the steps between two evaluations; the first seed of each recipe is
shown."""


def measure(recipe: str, corpus: pathlib.Path, num_seeds: int) -> None:
  """Trains a recipe with each seed and writes what came of it.

  With 0 seeds it takes as many as were measured before, or one.
  """
  path = _FOLDER / f"{recipe}.json"
  if not num_seeds:
    before = json.loads(path.read_text())["runs"] if path.exists() else []
    num_seeds = max(1, len(before))
  runs = [_measure_run(recipe, corpus, seed) for seed in range(num_seeds)]
  result = {"corpus": corpus.name, "machine": machine.describe(), "runs": runs}
  _FOLDER.mkdir(exist_ok=True)
  text = json.dumps(result, indent=1) + "\n"
  path.write_text(text)


def _measure_run(
  recipe: str, corpus: pathlib.Path, seed: int
) -> dict[str, Any]:
  run_dir = _ROOT / "runs" / "results" / f"{recipe}-{seed}"
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
  records = read_records(run.dir.metrics)
  per_step = config.batch_size * config.seq_length
  return {
    "seed": seed,
    "checkpoint": checkpoint,
    "config": json.loads(run.experiment.to_json()) | {"corpus": corpus.name},
    "num_weights": load_model(run, "latest")[0].count_params(),
    "num_characters": records[-1]["step"] * per_step,
    "hours": records[-1].get("seconds", math.nan) / 3600,
    "scores": scores,
    "curve": _curve(records, per_step),
  }


def _curve(records: list[Record], per_step: int) -> list[dict[str, float]]:
  """Returns each evaluation's losses, and the mean training loss before it."""
  curve, train = [], []
  for record in records:
    if record["split"] == "train":
      train.append(record["loss"])
    else:
      losses = {k: record[k] for k in ("loss", "valid_loss") if k in record}
      point = {"num_characters": record["step"] * per_step} | losses
      curve.append(point | {"train_loss": statistics.mean(train)})
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


def to_markdown(
  results: dict[str, Any],
  scored: dict[str, list[Baseline]],
  others: Sequence[dict[str, Any]],
) -> str:
  """Returns the text of `results/README.md`."""
  lines = ["# Results of the recipes", "", _INTRODUCTION]
  for corpus in sorted({r["corpus"] for r in results.values()}):
    lines += ["", f"## {corpus}", "", _TEXTS[corpus], ""]
    header = ["recipe", "weights", "characters", "hours", "seeds"]
    header += ["checkpoint", *_PROTOCOLS]
    rows = [
      _row(recipe, result)
      for recipe, result in results.items()
      if result["corpus"] == corpus
    ]
    cells = [cells_of(baseline) for baseline in scored[corpus]]
    lines += [table(header, rows), ""]
    lines += [table(("baseline", "nats", "bits", "MiB"), cells)]
  lines += [
    "",
    "## Other texts",
    "",
    _OTHERS,
    "",
    table(_OTHER_HEADER, map(_other_row, others)),
    "",
    "![Loss against size](sizes.svg)",
    "",
    "## Fine-tuning",
    "",
    _FINETUNING,
    "",
    table(_FINETUNING_HEADER, finetuning.rows()),
  ]
  measured: dict[str, list[str]] = {}
  machines = {name: result["machine"] for name, result in results.items()}
  machines |= {text["name"]: text["machine"] for text in others}
  for name, described in machines.items():
    measured.setdefault(machine.in_words(described), []).append(f"`{name}`")
  lines += ["", "## Learning curves", "", _CURVES, ""]
  lines += ["![Learning curves](curves.svg)", ""]
  lines += ["## Measured on", ""]
  lines += [f"- {', '.join(m)}: {words}" for words, m in measured.items()]
  return "\n".join(lines) + "\n"


def read_others() -> list[dict[str, Any]]:
  """Returns what was measured of other texts, in the order of their sizes."""
  found = [json.loads(path.read_text()) for path in OTHER.glob("*.json")]
  return sorted(found, key=lambda text: NAMES.index(text["name"]))


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


def plot_curves(results: dict[str, Any], path: pathlib.Path) -> None:
  """Draws the losses of each recipe's first seed over characters."""
  figure = Figure(figsize=(9, 5), layout="constrained")
  axes = figure.subplots()
  curves = {name: r["runs"][0]["curve"] for name, r in results.items()}
  for recipe, curve in curves.items():
    x = [point["num_characters"] / 1e6 for point in curve]
    (line,) = axes.plot(x, [point["loss"] for point in curve], label=recipe)
    train = [point["train_loss"] for point in curve]
    axes.plot(x, train, ":", color=line.get_color())
  # The training losses begin far above, as means of all that an epoch saw.
  axes.set_ylim(top=max(p["loss"] for curve in curves.values() for p in curve))
  axes.set_xlabel("million characters seen")
  label_losses(axes, axes, "character of the eval text (dotted: train)")
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
    default=_ROOT.parent / "shared" / "data",
    help="folder of shakespeare.txt and tinyshakespeare.txt",
  )
  args = parser.parse_args(argv[1:])
  try:
    for recipe in args.only:
      text = _TINY if recipe.startswith(_TINY) else "shakespeare"
      measure(recipe, args.data / f"{text}.txt", args.seeds)
    _write(args.data)
  except (InputError, subprocess.CalledProcessError) as error:
    parser.error(str(error))
  return 0


def _write(data: pathlib.Path) -> None:
  """Writes the table and the picture of all that was measured."""
  files = sorted(_FOLDER.glob("*.json"))
  results = {path.stem: json.loads(path.read_text()) for path in files}
  if results:
    scored = {
      corpus: measure_baselines(data / corpus)
      for corpus in {result["corpus"] for result in results.values()}
    }
    plot_curves(results, _FOLDER / "curves.svg")
    others = read_others()
    plot_sizes(others, _FOLDER / "sizes.svg")
    (_FOLDER / "README.md").write_text(to_markdown(results, scored, others))


if __name__ == "__main__":
  sys.exit(main(sys.argv))

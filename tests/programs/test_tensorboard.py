"""Runs in TensorBoard, in a browser."""

import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from helpers import metrics
from playwright.sync_api import Browser, Page, expect

import train as train_program

pytestmark = pytest.mark.release

# TensorBoard must keep folders of the same name apart.
_UNITS = {"small/run": 8, "large/run": 16}


@pytest.fixture(scope="module")
def runs(
  train_args: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """Two runs in one folder."""
  folder = tmp_path_factory.mktemp("runs")
  for name, units in _UNITS.items():
    args = [f"--run_dir={folder / name}", f"--rnn_units={units}", "--epochs=3"]
    args.append("--summary_every_steps=4")
    assert train_program.main([*train_args, *args]) == 0
  return folder


@pytest.fixture(scope="module")
def address(
  runs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
  """The address of a TensorBoard that shows them."""
  command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs}"]
  log = tmp_path_factory.mktemp("tensorboard") / "log"
  with (
    log.open("w") as file,
    subprocess.Popen(
      [*command, "--host=localhost", "--port=0", "--load_fast=false"],
      stdout=file,
      stderr=file,
    ) as process,
  ):
    while not (match := re.search(r"http://\S+", log.read_text())):
      assert process.poll() is None
      time.sleep(0.1)
    yield match[0]
    process.terminate()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
  page = browser.new_page(viewport={"width": 1600, "height": 1200})
  page.set_default_timeout(60_000)
  expect.set_options(timeout=60_000)
  yield page
  page.close()


def test_train_and_eval_curves_share_a_chart(
  runs: pathlib.Path, address: str, page: Page
) -> None:
  page.goto(f"{address}#timeseries")
  # Shows the loss alone.
  page.locator('input[placeholder="Filter tags (regex)"]').fill("^loss$")
  card = page.locator("card-view").first
  expect(card).to_contain_text("loss")
  table = card.locator("tb-data-table")
  for name in _UNITS:
    for split in ("train", "eval"):
      row = table.locator("tb-data-table-content-row").filter(
        has_text=f"{name}/summaries/{split}"
      )
      loss = metrics(runs / name, split)[-1]["loss"]
      expect(row).to_contain_text(f"{loss:.4f}".rstrip("0"))
  chart = card.locator("line-chart").first
  # An empty chart would compress to a few hundred bytes.
  assert len(chart.screenshot()) > 5_000


def test_a_table_holds_the_settings_and_scores_of_all_runs(
  runs: pathlib.Path, address: str, page: Page
) -> None:
  page.goto(f"{address}#hparams")
  cells = page.locator("vaadin-grid-cell-content")
  for name in _UNITS:
    cell = cells.filter(has_text=f"{name}/summaries/eval").first
    expect(cell).to_be_visible()
  # The cells of a row are consecutive.
  texts = [text.strip() for text in cells.all_inner_texts()]
  columns = texts[: texts.index("")]
  assert {"recipe", "layer", "learning_rate", "seed"} <= set(columns)
  for name, units in _UNITS.items():
    start = texts.index(f"{name}/summaries/eval")
    row = dict(zip(columns, texts[start:], strict=False))
    lowest = min(r["loss"] for r in metrics(runs / name, "eval"))
    assert f"rnn_units={units} " in row["settings"]
    assert float(row["best_loss"]) == pytest.approx(lowest, rel=1e-4)

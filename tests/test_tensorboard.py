"""A run as TensorBoard shows it in a browser."""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

import train as train_binary

_UNITS = {"small": 8, "large": 16}


@pytest.fixture(scope="module")
def runs(
  train_args: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """Two runs in one folder."""
  folder = tmp_path_factory.mktemp("runs")
  for name, units in _UNITS.items():
    args = [f"--run_dir={folder / name}", f"--rnn_units={units}", "--epochs=3"]
    args += ["--summary_every_steps=4", "--profile_steps=20,25"]
    assert train_binary.main([*train_args, *args]) == 0
  return folder


@pytest.fixture(scope="module")
def address(runs: pathlib.Path) -> Iterator[str]:
  """Of a TensorBoard that shows them."""
  command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs}"]
  with subprocess.Popen(
    [*command, "--host=localhost", "--port=0", "--load_fast=false"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
  ) as process:
    found = (re.search(r"http://\S+", line) for line in process.stderr)
    yield next(match[0] for match in found if match)
    process.terminate()
    process.stderr.read()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
  page = browser.new_page(viewport={"width": 1600, "height": 1200})
  page.set_default_timeout(60_000)
  expect.set_options(timeout=60_000)
  yield page
  page.close()


def _last(run: pathlib.Path, split: str) -> dict:
  lines = (run / "metrics.jsonl").read_text().splitlines()
  return [r for line in lines if (r := json.loads(line))["split"] == split][-1]


def test_training_and_held_out_curves_share_a_chart(
  runs: pathlib.Path, address: str, page: Page
) -> None:
  page.goto(f"{address}#timeseries")
  page.get_by_role("combobox", name="Filter tags").fill("^loss$")
  card = page.locator("card-view").filter(has_text="loss").first
  table = card.locator("tb-data-table")
  for name in _UNITS:
    for split in ("train", "eval"):
      row = table.locator("tb-data-table-content-row").filter(
        has_text=f"{name}/summaries/{split}"
      )
      loss = _last(runs / name, split)["loss"]
      expect(row).to_contain_text(f"{loss:.4f}".rstrip("0"))
  chart = card.locator("line-chart").first
  # An empty chart has one colour and packs to a few hundred bytes.
  assert len(chart.screenshot()) > 5_000


def test_samples_are_there_to_be_read(
  runs: pathlib.Path, address: str, page: Page
) -> None:
  page.goto(f"{address}#text")
  last = _last(runs / "small", "eval")
  held_out = (runs / "small" / "held_out.txt").read_text()
  assert last["continuation"].startswith(held_out[:100])
  for tag in ("sample", "continuation"):
    line = max(last[tag].splitlines()[:3], key=len).strip()
    expect(page.get_by_text(line).first).to_be_visible()


def test_a_table_holds_the_settings_and_scores_of_all_runs(
  runs: pathlib.Path, address: str, page: Page
) -> None:
  page.goto(f"{address}#hparams")
  for name, units in _UNITS.items():
    row = page.locator("vaadin-grid-cell-content").filter(has_text=name)
    expect(row.first).to_be_visible()
    cells = page.locator("vaadin-grid-cell-content")
    expect(cells.filter(has_text=f"{units}.000").first).to_be_visible()
    bits = _last(runs / name, "eval")["bits_per_character"]
    expect(cells.filter(has_text=f"{bits:.4f}").first).to_be_attached()


def test_a_profile_shows_the_steps(address: str, page: Page) -> None:
  page.goto(f"{address}#profile")
  frame = page.frame_locator("iframe").first
  frame.get_by_text("Overview Page").first.click()
  frame.get_by_text("Trace Viewer").first.click()
  trace = frame.frame_locator("iframe").first
  track = trace.get_by_text("host:CPU").locator("visible=true").first
  expect(track).to_be_visible()

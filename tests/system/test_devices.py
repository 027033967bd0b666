"""What is decided by the kind of device, and GPUs that are not found."""

import pathlib
import stat
import sys

import keras
import pytest
import tensorflow as tf
from helpers import PROGRAMS, build_model, run_program

from charlm.errors import InputError
from charlm.evaluation.evaluator import Evaluator
from charlm.model.gru import FusedGRU
from charlm.system import choices, gpu_search
from charlm.system.devices import choose_device

_LOG = """\
I0000 00:00:1795711127.198492   21555 cudart_stub.cc:31] Could not find cuda \
drivers on your machine, GPU will not be used.
2026-01-01 00:00:00.000000: W tensorflow/gpu_device.cc:2348] Cannot dlopen \
some GPU libraries. Please make sure the missing libraries are installed.
Skipping registering GPU devices...
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
  """Pretends that TensorFlow sees a GPU."""
  visible = tf.config.get_visible_devices

  def pretend(kind: str | None = None) -> list:
    return ["a GPU"] if kind == "GPU" else visible(kind)

  monkeypatch.setattr(tf.config, "get_visible_devices", pretend)


_TABLE = [
  value for value in vars(choices).values() if type(value) is choices.Choice
]


def test_a_process_that_chose_the_cpu_is_told_so(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  devices = {"GPU": ["a GPU"]}
  monkeypatch.setattr(tf.config, "list_physical_devices", devices.get)
  choose_device("auto")
  choose_device("cpu")
  with pytest.raises(InputError, match="has chosen the CPU: start another"):
    choose_device("gpu")
  assert capsys.readouterr().err == ""


def test_each_choice_follows_the_device(request: pytest.FixtureRequest) -> None:
  assert len(_TABLE) == 4
  assert [choice.here for choice in _TABLE] == [c.cpu for c in _TABLE]
  request.getfixturevalue("gpu")
  assert [choice.here for choice in _TABLE] == [c.gpu for c in _TABLE]
  assert all(len(choice.reason) > 20 for choice in _TABLE)


@pytest.mark.parametrize(
  ("options", "fused"),
  [
    ({}, False),
    ({"precision": "bfloat16"}, True),
    ({"layer_norm": True}, True),
    ({"gru": "fused"}, True),
  ],
)
def test_a_gpu_gets_cudnn_where_that_can_do_it(
  options: dict, fused: bool, request: pytest.FixtureRequest
) -> None:
  assert isinstance(build_model(5, 2, 3, **options).gru, FusedGRU)
  request.getfixturevalue("gpu")
  layer = build_model(5, 2, 3, **options).gru
  assert isinstance(layer, FusedGRU) == fused
  assert isinstance(layer, keras.layers.GRU)


@pytest.mark.usefixtures("gpu")
def test_scores_on_a_gpu_are_not_compiled_by_xla(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  compiled = []
  function = tf.function

  def note(*args: object, **options: object) -> object:
    compiled.append(options["jit_compile"])
    return function(*args, **options)

  monkeypatch.setattr(tf, "function", note)
  Evaluator(build_model(5, 2, 3))
  assert compiled == [False]


@pytest.fixture
def machine(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> pathlib.Path:
  """A machine without a sign of a GPU; its files are in the folder."""
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setenv("PATH", str(tmp_path))
  files = (str(tmp_path / "nvidia[0-9]*"),)
  monkeypatch.setattr(gpu_search, "_DEVICE_FILES", files)
  _program(monkeypatch, tmp_path, _LOG)
  return tmp_path


def _program(
  monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, log: str
) -> None:
  """Lets a program that writes a log take the place of Python."""
  (folder / "log").write_text(log)
  path = folder / "python"
  path.write_text(f"#!/bin/sh\nexec /bin/cat {folder}/log >&2\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(sys, "executable", str(path))


def test_a_machine_without_a_gpu_says_nothing(
  machine: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  choose_device("auto")
  choose_device("cpu")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="finds no GPU"):
    choose_device("gpu")


@pytest.mark.parametrize("sign", ["file", "program", "variable"])
def test_a_gpu_that_is_not_found_is_told(
  sign: str,
  machine: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  found = {"file": "nvidia0", "program": "nvidia-smi"}.get(sign, "0,1")
  if sign == "variable":
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", found)
  else:
    (machine / found).touch(mode=0o755)
  choose_device("auto")
  (line,) = capsys.readouterr().err.splitlines()
  assert found in line
  # The last reason, without what the log puts before it.
  assert "'Cannot dlopen some GPU libraries. Please" in line
  assert "pip install -e '.[cuda]'" in line
  choose_device("cpu")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="Cannot dlopen some GPU"):
    choose_device("gpu")


@pytest.mark.parametrize("value", ["", "-1", "-1,0", "NoDevFiles", "none"])
def test_gpus_that_are_hidden_are_no_surprise(
  value: str,
  machine: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (machine / "nvidia0").touch()
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
  choose_device("auto")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES hides all"):
    choose_device("gpu")


def test_a_log_without_a_reason_and_no_log(
  machine: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  _program(monkeypatch, machine, "nothing of use\n")
  assert gpu_search.reason_for_no_gpu().startswith("its log gives no reason;")
  monkeypatch.setattr(sys, "executable", str(machine / "missing"))
  assert "FileNotFoundError" in gpu_search.reason_for_no_gpu()


def test_a_program_tells_in_one_line(trained_run: pathlib.Path) -> None:
  if tf.config.list_physical_devices("GPU"):
    pytest.skip("this machine has a GPU that TensorFlow finds")
  env = {"CUDA_VISIBLE_DEVICES": "0"}
  run = f"--run_dir={trained_run}"
  result = run_program("eval.py", run, env=env)
  assert result.returncode == 0
  (line,) = result.stderr.splitlines()
  assert "TensorFlow finds none" in line
  assert "cuInit" in line


@pytest.mark.parametrize("script", PROGRAMS)
def test_every_program_refuses_to_do_without(
  script: str,
  machine: pathlib.Path,
  trained_run: pathlib.Path,
  train_args: list[str],
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = train_args if script == "train.py" else [script]
  flags = [f"--run_dir={trained_run}", "--device=gpu"]
  assert PROGRAMS[script].main([*args, *flags]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"{script}: TensorFlow finds no GPU: its log says")

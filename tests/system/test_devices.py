"""The choice of devices, and GPUs that are not found."""

import pathlib

import pytest
import tensorflow as tf
from helpers import Gpus, pretend_gpus

import sample as sample_program
from charlm.config import Config
from charlm.errors import InputError
from charlm.system import cuda, devices
from charlm.system.devices import choose_device
from charlm.training.replicas import number_of_replicas


def test_after_choosing_the_cpu_a_process_cannot_choose_the_gpu(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  gpus = {"GPU": ["a GPU"]}
  monkeypatch.setattr(tf.config, "list_physical_devices", gpus.get)
  choose_device("auto")
  choose_device("cpu")
  with pytest.raises(InputError, match="has chosen the CPU: start a new"):
    choose_device("gpu")
  assert capsys.readouterr().err == ""


@pytest.fixture
def machine(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> pathlib.Path:
  """A machine without any sign of a GPU; they are looked for in the folder."""
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.setattr(cuda, "_DRIVER", tmp_path / "driver")
  return tmp_path


@pytest.mark.parametrize(
  ("sign", "visible", "warns"),
  [
    ("driver", None, True),
    ("nvidia-smi", "0,1", True),
    ("nvidia-smi", "", False),
    ("driver", "-1", False),
    (None, None, False),
  ],
)
def test_a_gpu_that_tensorflow_does_not_find_gives_a_warning(
  sign: str | None,
  visible: str | None,
  warns: bool,
  machine: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  if sign:
    (machine / sign).touch(mode=0o755)
  if visible is not None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
  choose_device("auto")
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == warns
  for line in lines:
    found = "TensorFlow finds no GPU although this machine has one: "
    assert line.startswith(found)
    assert "--device=cpu" in line
  choose_device("cpu")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="finds no GPU: give --device=cpu"):
    choose_device("gpu")


def test_auto_uses_the_cpu_if_tensorflow_was_not_built_for_the_gpu(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  gpus = Gpus((12, 0))
  pretend_gpus(monkeypatch, gpus)
  with pytest.raises(InputError, match="not built for GPU 0: give --device"):
    choose_device("gpu")
  choose_device("auto")
  assert not gpus.visible
  (line,) = capsys.readouterr().err.splitlines()
  assert "was not built for GPU 0. Using the CPU" in line


def test_only_unusable_gpus_are_hidden(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  gpus = Gpus((12, 0), (8, 9), (9, 0))
  pretend_gpus(monkeypatch, gpus)
  choose_device("gpu")
  assert gpus.visible == gpus.physical[1:]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith("was not built for GPU 0. It is not used")
  choose_device("gpu")
  assert capsys.readouterr().err == ""


def test_a_strategy_hides_the_gpus_that_it_does_not_use(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  for windows, asked, used in ((384, 0, 3), (256, 0, 2), (64, 0, 1), (6, 2, 2)):
    gpus = Gpus((8, 9), (8, 9), (8, 9))
    pretend_gpus(monkeypatch, gpus)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
    number = number_of_replicas(
      Config(batch_size=windows), asked=asked, gru="auto"
    )
    strategy = devices.create_strategy(number)
    assert strategy == ["GPU:0", "GPU:1", "GPU:2"][:used]
    assert gpus.visible == gpus.physical[:used]
    assert devices.most_gpus() == 3


@pytest.mark.parametrize(
  ("texts", "device", "chosen"),
  [(8, "auto", "cpu"), (9, "auto", "auto"), (1, "gpu", "gpu")],
)
def test_few_texts_are_sampled_on_the_cpu(
  texts: int,
  device: str,
  chosen: str,
  trained_run: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  asked = []

  def choose(device: str) -> None:
    asked.append(device)
    raise InputError("that was enough")

  monkeypatch.setattr(devices, "choose_device", choose)
  args = ["sample.py", f"--run_dir={trained_run}", f"--device={device}"]
  args += [f"--num_samples={texts}", "--num_chars=1"]
  assert sample_program.main(args) == 2
  assert asked == [chosen]

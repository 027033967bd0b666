"""The choice of devices, and GPUs that are not found."""

import pathlib

import pytest
import tensorflow as tf
from helpers import Gpus, pretend_gpus

import sample as sample_program
import train as train_program
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
  """A machine without any sign of a GPU; its device files are in the folder."""
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setenv("PATH", str(tmp_path))
  files = (str(tmp_path / "nvidia[0-9]*"),)
  monkeypatch.setattr(cuda, "_DEVICE_FILES", files)
  return tmp_path


def test_a_machine_without_a_gpu_gives_no_warning(
  machine: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  choose_device("auto")
  choose_device("cpu")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="finds no GPU"):
    choose_device("gpu")


@pytest.mark.parametrize("sign", ["file", "program", "variable"])
def test_a_gpu_that_tensorflow_does_not_find_gives_a_warning(
  sign: str,
  machine: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr(devices, "reason_for_no_gpu", lambda: "libcudnn: install")
  evidence = {"file": "nvidia0", "program": "nvidia-smi"}.get(sign, "0,1")
  if sign == "variable":
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", evidence)
  else:
    (machine / evidence).touch(mode=0o755)
  choose_device("auto")
  (line,) = capsys.readouterr().err.splitlines()
  assert evidence in line
  assert "libcudnn: install" in line
  choose_device("cpu")
  assert capsys.readouterr().err == ""
  with pytest.raises(InputError, match="libcudnn: install"):
    choose_device("gpu")


@pytest.mark.parametrize("value", ["", "-1,0", "none"])
def test_hidden_gpus_give_no_warning(
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


def test_auto_uses_the_cpu_if_tensorflow_has_no_code_for_the_gpu(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  gpus = Gpus((12, 0))
  pretend_gpus(monkeypatch, gpus)
  with pytest.raises(InputError, match=r"for GPU 0, .* 12\.0: give --device"):
    choose_device("gpu")
  choose_device("auto")
  assert not gpus.visible
  (line,) = capsys.readouterr().err.splitlines()
  assert "no code for GPU 0, compute capability 12.0. Using the CPU" in line


def test_only_unusable_gpus_are_hidden(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  gpus = Gpus((12, 0), (8, 9), (8, 9))
  pretend_gpus(monkeypatch, gpus)
  choose_device("gpu")
  assert gpus.visible == gpus.physical[1:]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith("for GPU 0, compute capability 12.0. It is not used")
  choose_device("gpu")
  assert capsys.readouterr().err == ""


def test_a_gpu_that_does_not_start_is_a_one_line_error(
  monkeypatch: pytest.MonkeyPatch,
  trained_run: pathlib.Path,
  train_args: list[str],
  capsys: pytest.CaptureFixture[str],
) -> None:
  gpus = Gpus((8, 9))
  gpus.starts = False
  pretend_gpus(monkeypatch, gpus)
  monkeypatch.setattr(devices, "driver_problem", str)
  assert train_program.main([*train_args, f"--run_dir={trained_run}"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  problem = "TensorFlow cannot start the GPU: cudaGetDevice() failed; check"
  assert line.startswith(f"train.py: {problem}")


def test_the_error_of_a_gpu_that_does_not_start_names_the_driver(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  gpus = Gpus((8, 9))
  gpus.starts = False
  pretend_gpus(monkeypatch, gpus)
  monkeypatch.setattr(devices, "driver_problem", lambda: "install driver 525")
  with pytest.raises(InputError, match="install driver 525, or give"):
    choose_device("auto")


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

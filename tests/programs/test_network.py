"""Workers whose connection is slow, loses packets, or is taken down."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from helpers import ROOT, Program
from soak import assert_equal_runs
from workers import (
  LOST_WITHIN,
  addresses,
  tf_config,
  wait_until,
  without_replicas,
)

import train

_HOSTS = (f"charlm-a-{os.getpid()}", f"charlm-b-{os.getpid()}")
_ADDRESSES = ("10.213.77.1", "10.213.77.2")
_PORT = 12345
_DELAY = 0.02  # seconds, each way


def _args(train_args: list[str], run_dir: pathlib.Path, *more: str) -> list:
  return [*without_replicas(train_args), f"--run_dir={run_dir}", *more]


def _ip(*args: str) -> None:
  subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
  """Two network namespaces, joined by a veth pair."""
  if os.geteuid() or not shutil.which("ip"):
    pytest.skip("network namespaces need root and iproute2")
  with contextlib.ExitStack() as stack:
    for host in _HOSTS:
      try:
        _ip("netns", "add", host)
      except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces: {error.stderr.decode().strip()}")
      stack.callback(_ip, "netns", "del", host)
    pair = ["link", "add", "eth", "netns", _HOSTS[0], "type", "veth"]
    _ip(*pair, "peer", "name", "eth", "netns", _HOSTS[1])
    for host, address in zip(_HOSTS, _ADDRESSES, strict=True):
      _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth")
      for device in ("eth", "lo"):
        _ip("-n", host, "link", "set", device, "up")
    yield


def _start_on_hosts(args: list) -> list[subprocess.Popen]:
  found = [f"{address}:{_PORT}" for address in _ADDRESSES]
  return [
    subprocess.Popen(
      ["ip", "netns", "exec", host, sys.executable, *args],
      cwd=ROOT,
      env={**os.environ, "TF_CONFIG": tf_config(found, i)},
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
    )
    for i, host in enumerate(_HOSTS)
  ]


@contextlib.contextmanager
def _ended(processes: list[subprocess.Popen]) -> Iterator[None]:
  try:
    yield
  finally:
    for process in processes:
      process.kill()
      process.communicate()


@pytest.mark.usefixtures("hosts")
def test_hosts_whose_link_is_taken_down_both_end(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  processes = _start_on_hosts(_args(train_args, run_dir, "--epochs=5000"))
  with _ended(processes):
    saved = run_dir / "checkpoints" / "ckpt-10.index"
    wait_until(saved.exists)
    _ip("-n", _HOSTS[0], "link", "set", "eth", "down")
    end = time.monotonic() + LOST_WITHIN
    for index, process in enumerate(processes):
      _, errors = process.communicate(timeout=max(0, end - time.monotonic()))
      assert process.returncode == 4
      (line,) = errors.splitlines()
      assert f"worker {1 - index} ({_ADDRESSES[1 - index]}:{_PORT})" in line


@pytest.mark.usefixtures("hosts")
def test_lost_packets_change_nothing(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  loss = ["qdisc", "add", "dev", "eth", "root", "netem", "loss", "5%"]
  for host in _HOSTS:
    tc = ["ip", "netns", "exec", host, "tc", *loss]
    result = subprocess.run(tc, capture_output=True, text=True)
    if result.returncode:
      pytest.skip(f"the kernel has no netem: {result.stderr.strip()}")
  alone, together = tmp_path / "alone", tmp_path / "together"
  assert train.main(_args(train_args, alone, "--num_replicas=2")) == 0
  processes = _start_on_hosts(_args(train_args, together))
  with _ended(processes):
    for process in processes:
      process.communicate(timeout=120)
      assert process.returncode == 0
  assert_equal_runs(alone, together)


class _SlowProxy:
  """Passes on what it gets with a delay, which also bounds its speed."""

  def __init__(self, target: str) -> None:
    self._target = target
    self._listener = socket.create_server(("127.0.0.1", 0))
    self.address = "127.0.0.1:{1}".format(*self._listener.getsockname())
    threading.Thread(target=self._accept, daemon=True).start()

  def close(self) -> None:
    self._listener.close()

  def _accept(self) -> None:
    host, _, port = self._target.rpartition(":")
    with contextlib.suppress(OSError):
      while True:
        here, _ = self._listener.accept()
        try:
          there = socket.create_connection((host, int(port)))
        except OSError:  # it does not listen yet
          here.close()
          continue
        for ends in ((here, there), (there, here)):
          threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

  def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
      while data := source.recv(2**16):
        time.sleep(_DELAY)
        target.sendall(data)
    for each in (source, target):
      with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
      each.close()


def test_a_slow_connection_changes_nothing(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  alone, together = tmp_path / "alone", tmp_path / "together"
  assert train.main(_args(train_args, alone, "--num_replicas=2")) == 0
  own = addresses(2)
  with contextlib.ExitStack() as stack:
    slow = [stack.enter_context(contextlib.closing(_SlowProxy(x))) for x in own]
    processes = [
      Program(
        *_args(train_args, together),
        # Its own address is where it listens.
        env={
          "TF_CONFIG": tf_config(
            [own[i] if i == index else slow[i].address for i in range(2)], index
          )
        },
      )
      for index in range(2)
    ]
    for process in processes:
      stack.callback(process.kill)
    wait_until(lambda: all(p.poll() is not None for p in processes))
    assert [process.wait() for process in processes] == [0, 0]
  assert_equal_runs(alone, together)

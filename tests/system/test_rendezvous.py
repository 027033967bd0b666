"""Workers that meet, or do not, before TensorFlow connects them."""

import concurrent.futures
import contextlib
import json
import socket

import pytest
from workers import addresses

from charlm.errors import InputError
from charlm.system.rendezvous import wait_for_workers


def _meet(
  found: list[str], devices: dict[int, str], timeout: float = 20
) -> list[str]:
  """Lets workers with some indices meet; returns what each was told."""

  def worker(index: int) -> str:
    try:
      wait_for_workers(found, index, devices[index], timeout)
    except InputError as error:
      return str(error)
    return ""

  with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
    return list(pool.map(worker, devices))


@pytest.mark.parametrize("num_workers", [2, 3, 8])
def test_all_meet(num_workers: int) -> None:
  devices = dict.fromkeys(range(num_workers), "no GPU")
  assert _meet(addresses(num_workers), devices) == [""] * num_workers


def test_who_is_missing_is_named_to_all() -> None:
  found = addresses(4)
  told = _meet(found, {0: "no GPU", 2: "no GPU"}, timeout=1)
  for text in told:
    assert "worker 1 (" in text
    assert f"worker 3 ({found[3]}) did not connect in time" in text
    assert "worker 2" not in text
    assert "--cluster_timeout" in text


def test_without_the_first_the_others_name_it() -> None:
  found = addresses(3)
  for text in _meet(found, {1: "no GPU", 2: "no GPU"}, timeout=1):
    assert f"worker 0 ({found[0]}) did not connect in time" in text


def test_other_devices_are_refused_by_all() -> None:
  told = _meet(addresses(3), {0: "2 GPUs", 1: "2 GPUs", 2: "no GPU"})
  for text in told:
    assert "worker 2 has no GPU, but worker 0 has 2 GPUs" in text


def test_another_list_of_workers_is_refused_by_all() -> None:
  found = addresses(3)

  def join(own: list[str], index: int) -> str:
    with pytest.raises(InputError) as error:
      wait_for_workers(own, index, "no GPU", 20)
    return str(error.value)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    told = pool.map(join, (found[:2], found), (0, 1))
  for text in told:
    assert "worker 1 knows of 3 workers, worker 0 of 2" in text


def test_one_that_ends_while_it_waits_is_missing_again() -> None:
  found = addresses(3)
  host, _, port = found[0].rpartition(":")
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    chief = pool.submit(_meet, found, {0: "no GPU"}, 3)
    with _connect(host, int(port)) as ended:
      ended.sendall(json.dumps([1, 3, "no GPU"]).encode() + b"\n")
    assert f"worker 1 ({found[1]}) and worker 2" in chief.result()[0]


def test_whoever_else_connects_is_ignored() -> None:
  found = addresses(2)
  host, _, port = found[0].rpartition(":")
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
    meeting = pool.submit(_meet, found, {0: "no GPU"}, 10)
    for junk in (
      b"",
      b"GET / HTTP/1.1\r\n\r\n",
      b"[]\n",
      b"[9]\n",
      b"\xff" * 99,
    ):
      peer = _connect(host, int(port))
      stack.callback(peer.close)
      peer.sendall(junk)
    assert _meet(found, {1: "no GPU"}) == [""]
    assert meeting.result() == [""]


def _connect(host: str, port: int) -> socket.socket:
  """Connects as soon as somebody listens."""
  while True:
    with contextlib.suppress(ConnectionRefusedError):
      return socket.create_connection((host, port))


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_in_use_is_named(index: int) -> None:
  found = addresses(2)
  port = int(found[index].rpartition(":")[2])
  with (
    socket.create_server(("127.0.0.1", port)),
    pytest.raises(InputError, match=f"cannot listen at {found[index]}"),
  ):
    wait_for_workers(found, index, "no GPU", 5)

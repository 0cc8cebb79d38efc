"""A cluster of several nodes, each with a Ray of its own on this machine: what becomes of a run when one of them is lost."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.runner.conftest import is_alive, kill_tree, workers

if TYPE_CHECKING:
    from tests.runner.conftest import Study

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

config = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a lost node is noticed in seconds, not in a quarter minute
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": config})
nodes = []
print(cluster.address, flush=True)
for command in sys.stdin:
    if command.strip() == "add":
        nodes.append(cluster.add_node(num_cpus=1))
        print(nodes[-1].all_processes["raylet"][0].process.pid, flush=True)
    else:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print("removed", flush=True)
"""


class Nodes:
    """A cluster that takes orders: its head and what is added to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _order(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def add(self) -> int:
        """Another node of one CPU; its raylet's process id."""
        return int(self._order("add"))

    def lose(self) -> None:
        """SIGKILL for the oldest node but the head."""
        assert self._order("lose") == "removed"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """A head and one more node, one CPU each."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as place:  # any deeper, and Ray's sockets would not fit
        for name, value in {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": place,
            "RAY_USAGE_STATS_ENABLED": "0",
        }.items():
            monkeypatch.setenv(name, value)
        nodes = Nodes()
        yield nodes
        kill_tree(nodes.process.pid)
        nodes.process.communicate()


@pytest.mark.slow
def test_trials_of_a_lost_node_move_and_a_new_node_is_used(undisturbed: Study, study: Study, nodes: Nodes) -> None:
    lost = nodes.add()
    process = study.start("--address", nodes.address)
    study.wait_until(lambda: len(workers(nodes.process.pid)) == 2)
    study.wait_for_records(3)
    before = study.finished()
    on_lost = workers(lost)
    assert on_lost
    nodes.lose()
    study.wait_until(lambda: not any(is_alive(pid) for pid in on_lost), 10)
    on_head = workers(nodes.process.pid)
    for pid in on_head:
        os.kill(pid, signal.SIGSTOP)  # it could finish everything before the new node has started its worker
    new = nodes.add()
    study.wait_until(lambda: bool(workers(new)))
    for pid in on_head:
        os.kill(pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert study.records() == undisturbed.records()
    study.assert_not_trained_again(before)
    assert "times:" not in output, "a lost node counted as a failed trial"
    assert "\x1b" not in output
    assert errors == ""

"""Ray of a local run: to whom it listens, what is left when any of its processes dies, and what becomes of what dead drivers left."""

from __future__ import annotations

import http.client
import ipaddress
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runner.conftest import Study, descendants, is_alive, workers
from tune_ablation.errors import UserError
from tune_ablation.runner import local_ray, processes

if sys.platform != "linux":
    pytest.skip("processes and sockets are looked up in Linux's /proc", allow_module_level=True)

LISTEN = "0A"
GONE_WITHIN_SECONDS = 20
KEPT = "Everything done so far is kept; the same command goes on from here.\n"
ASK_GCS = "import sys; from ray._raylet import GcsClient; print(GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=20))"


def name(pid: int) -> str:
    """What a process calls itself, cut off by the kernel after 15 bytes."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def listening(pids: list[int]) -> dict[int, list[tuple[str, int]]]:
    """(Address, port) of every TCP socket that listens and every UDP socket that is bound, by process."""
    owners: dict[str, int] = {}
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(file.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                owners[target[8:-1]] = pid
    found: dict[int, list[tuple[str, int]]] = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[9] in owners and (fields[3] == LISTEN or table.startswith("udp")):
                words = struct.pack(f"={len(address) // 8}I", *(int(address[at : at + 8], 16) for at in range(0, len(address), 8)))
                found.setdefault(owners[fields[9]], []).append((str(ipaddress.ip_address(words)), int(port, 16)))
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def test_the_search_for_listeners_finds_them() -> None:
    with socket.create_server(("", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as here:
        found = listening([os.getpid()])[os.getpid()]
        assert ("0.0.0.0", everywhere.getsockname()[1]) in found  # noqa: S104 - what must not be, to see that it would be found
        assert ("127.0.0.1", here.getsockname()[1]) in found
    assert not is_loopback("0.0.0.0")  # noqa: S104
    assert not is_loopback("::")
    assert is_loopback("::ffff:127.0.0.1")


Run = tuple[Study, subprocess.Popen[str]]


def training(study: Study) -> Run:
    """A run two of whose trials have come some way."""
    process = study.start("--parallel", "2")
    study.wait_for_records(2)
    return study, process


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Run]:
    """Such a run that stays as it is for as long as it is looked at: its workers stand still."""
    study, process = training(Study(tmp_path_factory.mktemp("held"), cache))
    for worker in workers(process.pid):
        os.kill(worker, signal.SIGSTOP)
    yield study, process
    study.clean_up()


def test_a_local_run_listens_on_loopback_only_and_to_nobody_without_its_token(held: Run) -> None:
    _, process = held
    found = listening(descendants(process.pid))
    ports = {name(pid): sockets[0][1] for pid, sockets in found.items()}
    assert {"gcs_server", "raylet", "ray::RuntimeEnv"} <= set(ports)
    assert process.pid in found
    assert set(workers(process.pid)) & set(found)
    assert not [(name(pid), address) for pid, sockets in found.items() for address, _ in sockets if not is_loopback(address)]

    (gcs,) = (pid for pid in found if name(pid) == "gcs_server")
    token = environment(gcs)["RAY_AUTH_TOKEN"]
    given = {
        "none": {},
        "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token[::-1]},
        "its own": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
    }
    bare = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    asking = {
        which: subprocess.Popen(
            [sys.executable, "-c", ASK_GCS, f"127.0.0.1:{ports['gcs_server']}"],
            env=bare | known,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for which, known in given.items()
    }
    answers = {which: asked.communicate(timeout=100) for which, asked in asking.items()}
    assert answers["its own"][0], answers
    for which in ("none", "another"):
        output, errors = answers[which]
        assert output == ""
        assert "token" in errors
    connection = http.client.HTTPConnection("127.0.0.1", ports["ray::RuntimeEnv"], timeout=10)
    connection.request("POST", "/get_runtime_envs_info", b"")
    assert connection.getresponse().status == 401
    connection.close()


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    return dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line)


def test_temporary_files_of_workers_go_with_the_run(held: Run) -> None:
    _, process = held
    (raylet,) = (pid for pid in descendants(process.pid) if name(pid) == "raylet")
    assert Path(environment(raylet)["TMPDIR"]).parent == local_ray._base()


def killed(run: Run, victim: str) -> tuple[int, str]:
    """Exit code and standard error of a run one of whose processes was killed, all others having gone with it, and its folder too."""
    study, process = run
    running = descendants(process.pid)
    assert workers(process.pid)
    by_name = {name(pid): pid for pid in running} | {"driver": process.pid}
    _, _, logs = Path(f"/proc/{by_name['gcs_server']}/cmdline").read_text().partition("--log_dir=")
    folder = Path(logs.partition("\0")[0]).parents[1]
    assert folder.parent == local_ray._base()
    os.kill(by_name[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=GONE_WITHIN_SECONDS)
    study.wait_until(lambda: not any(is_alive(pid) for pid in running), GONE_WITHIN_SECONDS)
    assert not folder.exists()
    return process.returncode, errors


def test_nothing_outlives_a_killed_driver(held: Run) -> None:
    code, errors = killed(held, "driver")
    assert code == -signal.SIGKILL
    assert errors == f"Cut off. {KEPT}"


@pytest.mark.parametrize(
    ("victim", "died"),
    [
        ("raylet", "raylet"),
        pytest.param("gcs_server", "gcs_server", marks=pytest.mark.slow),
        pytest.param("ray::DashboardA", "raylet", marks=pytest.mark.slow),
        pytest.param("ray::RuntimeEnv", "raylet", marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_ray_dies_says_so_ends_and_goes_on(undisturbed: Study, study: Study, victim: str, died: str) -> None:
    code, errors = killed(training(study), victim)
    assert code == 1
    last = errors.splitlines(keepends=True)[-1]
    assert last in (f"error: Ray's {died} died. {KEPT}", f"Cut off. {KEPT}")  # Ray may take the driver down before it has looked
    before = study.finished()
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()
    study.assert_not_trained_again(before)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_ray_killed_while_it_starts_ends_the_run_too(study: Study, victim: str) -> None:
    process = study.start()
    study.wait_until(lambda: victim in map(name, descendants(process.pid)))
    running = descendants(process.pid)
    os.kill(next(pid for pid in running if name(pid) == victim), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, f"error: Ray's {victim} died. {KEPT}")
    study.wait_until(lambda: not any(is_alive(pid) for pid in running), GONE_WITHIN_SECONDS)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of its own for the folders of runs, short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as place:  # any deeper, and Ray's sockets would not fit
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield local_ray._base()


DRIVER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tune_ablation.runner import local_ray, processes
with local_ray._own_folder() as (folder, keeper):
    (folder / "log").touch()
    print(folder, keeper.pid, flush=True)
    sys.stdin.read()
"""


class Driver:
    """A process that has a folder of its own and does nothing with it."""

    def __init__(self, base: Path) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", DRIVER, str(base.parent)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None
        folder, keeper = self.process.stdout.readline().split()
        self.folder, self.keeper = Path(folder), int(keeper)

    def end(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def holding(file: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a file open."""
    with file.open("rb") as opened:
        process = subprocess.Popen([program, *arguments], stdin=opened)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


SLEEP = "import time; time.sleep(100)"


def test_the_keeper_clears_away_what_a_killed_driver_leaves(base: Path) -> None:
    driver = Driver(base)
    log = driver.folder / "log"
    with (
        holding(log, sys.executable, "-c", SLEEP, f"--log={log}") as left,
        holding(log, sys.executable, "-c", SLEEP) as other_python,
        holding(log, "tail", "-f", str(log)) as other_program,
    ):
        driver.process.kill()
        assert driver.end() == (-signal.SIGKILL, f"Cut off. {KEPT}")
        assert left.wait(timeout=10) == -signal.SIGKILL
        assert other_python.poll() is None
        assert other_program.poll() is None
    assert not list(base.iterdir())


def test_a_driver_that_ends_by_itself_needs_no_one_to_speak_for_it(base: Path) -> None:
    driver = Driver(base)
    log = driver.folder / "log"
    with holding(log, sys.executable, "-c", SLEEP, f"--log={log}") as left:
        assert driver.end() == (0, "")
        assert left.wait(timeout=10) == -signal.SIGKILL
    assert not list(base.iterdir())


def test_what_a_driver_and_its_keeper_left_the_next_run_clears_away_and_leaves_the_living_alone(base: Path) -> None:
    living, dead = Driver(base), Driver(base)
    log = dead.folder / "log"
    with holding(log, sys.executable, "-c", SLEEP, f"--log={log}") as left:
        os.kill(dead.keeper, signal.SIGKILL)
        dead.process.kill()
        dead.end()
        assert dead.folder.exists()
        with local_ray._own_folder() as (folder, _):
            assert sorted(base.iterdir()) == sorted([folder, living.folder])
        assert left.wait(timeout=10) == -signal.SIGKILL
    assert living.end() == (0, "")
    assert not list(base.iterdir())


def test_a_killed_keeper_does_not_give_its_driver_up(base: Path) -> None:
    driver = Driver(base)
    os.kill(driver.keeper, signal.SIGKILL)
    with local_ray._own_folder():
        assert driver.folder.exists()
    assert driver.end() == (0, "")


def test_runs_that_start_at_once_do_not_take_each_other_for_dead(base: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        drivers = list(pool.map(Driver, [base] * 4))
    assert sorted(base.iterdir()) == sorted(driver.folder for driver in drivers)
    assert [driver.end() for driver in drivers] == [(0, "")] * 4


def others_may_look(base: Path) -> None:
    base.chmod(0o755)


def is_a_link(base: Path) -> None:
    base.rename(base.with_name("elsewhere"))
    base.symlink_to(base.with_name("elsewhere"))


def is_a_file(base: Path) -> None:
    base.rmdir()
    base.touch()


@pytest.mark.parametrize("spoil", [others_may_look, is_a_link, is_a_file])
def test_a_place_for_temporary_files_that_is_not_this_users_alone_is_refused(base: Path, spoil: Callable[[Path], None]) -> None:
    spoil(base)
    with pytest.raises(UserError, match=rf"^{base}: .*TMPDIR may name another place"), local_ray._own_folder():
        pass


def test_where_the_place_is_too_deep_for_sockets_another_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    base = local_ray._base()
    assert base.parent == Path("/tmp")  # noqa: S108 - what is asked for
    assert len(f"{base}{local_ray.RAY_SOCKET}") <= local_ray.SOCKET_PATH_BYTES
    assert stat.S_IMODE(base.stat().st_mode) == 0o700


def test_a_child_counts_as_dead_from_its_end_until_it_is_asked_about() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        assert "sleep" not in processes.dead_children()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.dead_children() == ["sleep"]
    assert not processes.dead_children()


PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
from tune_ablation.runner.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("here", flush=True)
time.sleep(100)
''', str(os.getpid() + int(sys.argv[1]))], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip() or child.wait(), flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(("offset", "expected"), [("0", "here"), ("1", "1")])
def test_a_worker_ends_with_its_parent_and_at_once_if_that_is_gone_already(study: Study, offset: str, expected: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, offset], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, said = parent.stdout.readline().split()
        parent.kill()
    assert said == expected
    study.wait_until(lambda: not is_alive(int(child)), 10)

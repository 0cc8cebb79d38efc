"""Results on S3 while the server is slow, failing, stopped for a while or away: the same records, or one line and another chance."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import BUCKET
from tests.proxy import Proxy, proxy_to
from tests.runner.conftest import descendants, kill_tree
from tune_ablation.lock import BEAT, CLAIM, CLAIMS_FOLDER
from tune_ablation.records import load_rows
from tune_ablation.storage import Storage, open_storage

if TYPE_CHECKING:
    from tests.runner.conftest import Study

pytestmark = pytest.mark.slow


def of_folder(study: Study, options: str) -> Storage:
    """The study's results folder, by a way that is not disturbed."""
    return open_storage(f"{study.storage_path.partition('?')[0]}?{options}").child("tiny")


def records(storage: Storage, columns: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """All records by trial, as ``Study.records`` has them."""
    names = next(iter(columns.values()))[0]
    found = {}
    for name in storage.names("trials"):
        if name.endswith("/records.jsonl"):
            rows = load_rows(storage.read(name) or b"", name)
            found[name.removeprefix("trials/").removesuffix("/records.jsonl")] = [{key: row[key] for key in names} for row in rows]
    return found


def left_over(storage: Storage) -> list[str]:
    """What a finished run should not leave."""
    return [name for name in storage.names() if name.endswith((".pt", ".tmp")) or name.startswith(CLAIMS_FOLDER)]


def in_one_line(errors: str) -> bool:
    """Whether nothing but warnings of the storage and one last error was said."""
    *warnings, last = errors.replace("\n ", " ").strip().splitlines()
    return "Traceback" not in errors and last.startswith("error: ") and not any(line.startswith("error: ") for line in warnings)


@pytest.fixture
def proxy(s3_options: str) -> Iterator[Proxy]:
    with proxy_to(s3_options) as proxy:
        yield proxy


def test_with_a_third_of_all_requests_in_trouble_the_records_are_the_same(
    undisturbed: Study, study: Study, s3_options: str, proxy: Proxy
) -> None:
    proxy.rates = {"busy": 0.07, "broken": 0.07, "reset": 0.07, "lost": 0.07, "slow": 0.07}
    study.storage_path = f"s3://{BUCKET}/trouble?{proxy.options}"
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert "Traceback" not in output + errors
    storage = of_folder(study, s3_options)
    assert records(storage, undisturbed.records()) == undisturbed.records()
    assert left_over(storage) == []
    assert min(proxy.happened[what] for what in proxy.rates) > 5


def test_a_network_that_is_gone_for_a_while_costs_time_only(undisturbed: Study, study: Study, s3_options: str, proxy: Proxy) -> None:
    study.storage_path = f"s3://{BUCKET}/gone?{proxy.options}"
    process = study.start("--parallel", "2")
    storage = of_folder(study, s3_options)
    for trials in (1, 4):
        study.wait_until(lambda trials=trials: len(records(storage, undisturbed.records())) >= trials)  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
        proxy.stop()
        time.sleep(12)
        proxy.start()
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    assert "trying again for up to 120 s" in " ".join(errors.split())
    assert records(storage, undisturbed.records()) == undisturbed.records()
    assert left_over(storage) == []


def test_away_for_too_long_it_ends_with_one_line_and_goes_on_later(undisturbed: Study, study: Study, s3_options: str, proxy: Proxy) -> None:
    study.storage_path = f"s3://key:secret@{BUCKET}/away?{proxy.options}"
    process = study.start("--parallel", "2")
    storage = of_folder(study, s3_options)
    study.wait_until(lambda: len(records(storage, undisturbed.records())) >= 2)
    proxy.stop()
    began = time.monotonic()
    output, errors = process.communicate(timeout=280)
    assert time.monotonic() - began < 200
    assert process.returncode == 2, output + errors
    assert in_one_line(errors), errors
    assert re.search(rf"error: s3://\*\*\*@{BUCKET}/away/tiny/.* was tried for 120 s", errors.replace("\n", " "))
    assert "the same command goes on" in errors.replace("\n", " ")
    proxy.start()
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert "secret" not in output + errors
    assert records(storage, undisturbed.records()) == undisturbed.records()
    assert left_over(storage) == []
    assert not [name for name in storage.names() if b"secret" in (storage.read(name) or b"")]


def test_a_server_that_is_not_there_is_said_in_one_line(study: Study, s3_options: str, proxy: Proxy) -> None:
    study.storage_path = f"s3://key:secret@{BUCKET}/nowhere?{proxy.options}"
    proxy.stop()
    code, output, errors = study.run()
    proxy.start()
    assert code == 2
    assert in_one_line(errors), errors
    assert "secret" not in output + errors


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An S3 server in a process of its own, which can be put to sleep."""
    boto3 = pytest.importorskip("boto3")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket=BUCKET)
    yield process, f"endpoint_override=127.0.0.1:{port}&scheme=http"
    process.kill()
    process.wait()


@pytest.mark.usefixtures("s3_options")  # its credentials
def test_a_server_that_sleeps_for_a_while_costs_time_only(
    undisturbed: Study, study: Study, server: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, options = server
    study.storage_path = f"s3://{BUCKET}/asleep?{options}"
    run = study.start("--parallel", "2")
    storage = of_folder(study, options)
    study.wait_until(lambda: len(records(storage, undisturbed.records())) >= 2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(40)  # longer than a single request waits for its answer
    process.send_signal(signal.SIGCONT)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, output + errors
    assert records(storage, undisturbed.records()) == undisturbed.records()
    assert left_over(storage) == []


def test_two_drivers_on_s3_and_one_killed(undisturbed: Study, study: Study, s3_options: str, proxy: Proxy) -> None:
    proxy.rates, proxy.delay = {"slow": 1.0}, 0.3  # the first one is to be at work for a while
    study.storage_path = f"s3://{BUCKET}/two?{proxy.options}"
    storage = of_folder(study, s3_options)
    first = study.start("--parallel", "2")
    study.wait_until(lambda: any(name.endswith(BEAT) for name in storage.names(CLAIMS_FOLDER)))
    study.storage_path = f"s3://{BUCKET}/two?{s3_options}"
    refused, waiting = study.start("--parallel", "2"), study.start("--parallel", "2", "--wait")
    output, errors = refused.communicate(timeout=120)
    assert refused.returncode == 2, output + errors
    assert re.search(rf"\(process {first.pid} on {re.escape(os.uname().nodename)}, since .*--wait", errors)
    study.wait_until(lambda: len(records(storage, undisturbed.records())) >= 1)
    assert waiting.poll() is None
    kill_tree(first.pid)
    first.communicate()
    output, errors = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, output + errors
    assert "Waiting: " in output
    assert "taken over from a run that ended without a word" in output
    assert records(storage, undisturbed.records()) == undisturbed.records()
    assert left_over(storage) == []


def test_a_run_that_was_taken_over_in_its_sleep_changes_nothing_after_it(study: Study, s3_options: str) -> None:
    study.storage_path = f"s3://{BUCKET}/slept?{s3_options}"
    process = study.start("--parallel", "2", "--set", "recipe.epochs=200")
    storage = of_folder(study, s3_options)
    study.wait_until(lambda: sum(name.endswith("/records.jsonl") for name in storage.names("trials")) >= 2)
    tree = descendants(process.pid)
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    (claim,) = (name for name in storage.names(CLAIMS_FOLDER) if name.endswith(CLAIM))
    storage.delete(claim)  # which is what another machine's driver does after a minute

    def content() -> dict[str, bytes | None]:
        return {name: storage.read(name) for name in storage.names() if not name.startswith(CLAIMS_FOLDER)}

    before = content()
    for pid in tree:
        os.kill(pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, output + errors
    assert in_one_line(errors), errors
    assert "another run of this experiment" in errors.replace("\n", " ")
    after = content()
    # One that had looked for the claim just before it was put to sleep still makes that one write, and no other.
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert len({name.rpartition("/")[0] for name in changed}) == len(changed) <= 2, changed
    for name in changed & before.keys():
        if name.endswith("/records.jsonl"):
            assert len((after[name] or b"").splitlines()) == len((before[name] or b"").splitlines()) + 1


def test_train_takes_the_lock_and_waits_for_it(study: Study, tmp_path: Path) -> None:
    small = ["data.image_size=32", "data.classes=3", "data.train_per_class=16", "data.val_per_class=4", "data.test_per_class=4"]
    small += ["model.width=4", "recipe.batch_size=8"]
    command = [sys.executable, "-m", "tune_ablation", "train", "-a", "resnet18", "--storage-path", str(tmp_path / "trained")]
    command += [argument for setting in small for argument in ("--set", setting)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([*command, "--epochs", "400", "--cpus-per-trial", "1"], **pipes)
    try:
        study.wait_until(lambda: bool(list((tmp_path / "trained").rglob("records.jsonl"))))
        refused = subprocess.run([*command, "--epochs", "400"], check=False, timeout=120, **pipes)
        assert refused.returncode == 2
        assert f"(process {first.pid} on " in refused.stderr
        waited = subprocess.run([*command, "--epochs", "400", "--cpus-per-trial", "1", "--wait"], check=False, timeout=240, **pipes)
        assert waited.returncode == 0, waited.stderr
        assert "Waiting: " in waited.stdout
        assert "epoch 400/400" not in waited.stdout, "the first one trained it"
    finally:
        first.kill()
        first.communicate()

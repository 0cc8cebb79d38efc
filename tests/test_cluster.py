"""The Ray cluster file: accepted by Ray itself, and every promise that it makes on cost, safety and sameness of nodes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

from tune_ablation import cli
from tune_ablation.data.download import URL

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
TO_FILL_IN, REST = re.split(r"^(?=cluster_name:)", TEXT, flags=re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLACEHOLDER = "FILL-IN"

# Started before anything else in a Python that this folder comes first for: no socket of it reaches beyond this machine.
LOOPBACK_ONLY = """
import sys

def refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
        raise ConnectionRefusedError(f"a test may not reach {arguments[1]}")

sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(TEXT))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.partition(";")[0].split("==") for line in lines if line]
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def start_commands(config: dict[str, Any]) -> dict[str, str]:
    return {kind: config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")}


def install_command(config: dict[str, Any]) -> list[str]:
    (command,) = [command for command in config["setup_commands"] if "pip install" in command]
    return shlex.split(command)


def to_install(config: dict[str, Any]) -> list[Requirement]:
    """What the install command asks for, the project's own requirements in place of its folder."""
    words = install_command(config)
    last = words[words.index("constraints.txt") + 1 :]
    found = []
    for word in last:
        extras = re.fullmatch(r"\.(?:\[(.*)\])?", word)
        if extras is None:
            found.append(Requirement(word))
        else:
            lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in (extras[1] or "").split(",") if name)]
            found += [Requirement(line) for lines in lists for line in lines]
    return found


def test_a_placeholder_is_only_at_the_top_and_says_what_belongs_there() -> None:
    assert PLACEHOLDER in TO_FILL_IN
    assert PLACEHOLDER not in REST
    for line in TO_FILL_IN.partition("metadata:\n")[2].splitlines():
        assert not line.strip() or re.search(r"\S\s+# \w+", line), line


def test_what_is_filled_in_at_the_top_stands_nowhere_else() -> None:
    for value in map(str, yaml.safe_load(TO_FILL_IN)["metadata"].values()):
        assert not re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", REST) or value.isdigit(), value
    for pattern in ("s3://", "ami-", "sg-", "arn:", r"[a-z]{2}-[a-z]+-\d\b"):
        assert not re.search(rf"\b{pattern}", REST), pattern


def test_no_secret_is_in_the_file() -> None:
    assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|secret|RAY_AUTH_TOKEN=|aws_credentials", TEXT, re.IGNORECASE)
    assert not re.search(r"\b[0-9a-f]{32,}\b", TEXT)


def test_head_is_on_demand_and_runs_no_trial(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_are_gpu_spot_nodes_scaled_from_none(config: dict[str, Any]) -> None:
    ((_, worker),) = [item for item in config["available_node_types"].items() if item[0] != config["head_node_type"]]
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"] > 0
    assert worker["resources"]["GPU"] == 1
    assert worker["resources"]["CPU"] >= 1
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < config["idle_timeout_minutes"] <= 15


def test_nodes_share_one_image_and_one_python(config: dict[str, Any]) -> None:
    assert len({node["node_config"]["ImageId"] for node in config["available_node_types"].values()}) == 1
    (version,) = re.findall(r"uv venv .*--python (\d+\.\d+\.\d+) ", "\n".join(config["setup_commands"]))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert [*map(int, version.split("."))][:2] >= [*map(int, lowest.split("."))]


def test_nothing_is_given_up_to_rays_defaults(config: dict[str, Any]) -> None:
    stated = yaml.safe_load(TEXT)
    assert set(config) - set(stated) <= {"upscaling_speed", "docker"}
    assert stated["provider"]["cache_stopped_nodes"] is False
    assert not re.search(r"nightly|latest|ray-wheels", json.dumps([config[name] for name in config if name.endswith("commands")]))


def test_no_door_is_open_to_the_internet(config: dict[str, Any]) -> None:
    assert "0.0.0.0" not in TEXT  # noqa: S104 - looked for, not bound to
    assert "::/0" not in TEXT
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == [config["metadata"]["security_group"]]
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_every_node_may_use_the_bucket_by_its_own_profile(config: dict[str, Any]) -> None:
    profiles = [node["node_config"]["IamInstanceProfile"]["Name"] for node in config["available_node_types"].values()]
    assert profiles == [config["metadata"]["head_profile"], config["metadata"]["worker_profile"]]
    assert len(set(profiles)) == 2
    assert config["metadata"]["results"].startswith("s3://")


def test_dashboard_listens_on_the_head_alone(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in start_commands(config)["head"].split()


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_node_starts_afresh_with_tokens_and_without_usage_reports(config: dict[str, Any], kind: str) -> None:
    assert config[f"{kind}_start_ray_commands"][0] == "ray stop"
    assignments, _, _ = start_commands(config)[kind].partition(" ray start ")
    assert {"RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= set(assignments.split())


def test_token_reaches_every_node_as_a_file_that_only_its_user_reads(config: dict[str, Any]) -> None:
    token = "~/.ray/auth_token"  # noqa: S105 - where Ray looks for it by default
    assert config["file_mounts"][token] == token
    for kind in ("head", "worker"):
        assert f"chmod 600 {token}" in config[f"{kind}_setup_commands"]


def test_nodes_get_the_project_and_its_pins(config: dict[str, Any]) -> None:
    words = install_command(config)
    folder = words[words.index("cd") + 1]
    mounted = {remote: local for remote, local in config["file_mounts"].items() if remote.startswith(f"{folder}/")}
    assert all((ROOT / local).exists() for local in mounted.values())
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "constraints.txt", PROJECT["readme"], *wheel["packages"], *wheel["force-include"]}
    assert set(mounted.values()) == needed
    assert words[words.index("-c") + 1] == "constraints.txt"


def test_every_package_on_a_node_is_pinned(config: dict[str, Any], pins: dict[str, str]) -> None:
    """Follows the installed packages' own requirements, so that nothing that comes along with another floats."""
    queue, seen = to_install(config), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{requirement} is not in constraints.txt"
        assert pins[name] in requirement.specifier, f"constraints.txt: {name}=={pins[name]}, wanted: {requirement}"
        assert "+" not in pins[name], f"{name}=={pins[name]} is not in the index that nodes install from"
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # not needed outside a cluster; its own pin is checked all the same
            queue += [found for found in map(Requirement, needed) if found.marker is None or found.marker.evaluate({"extra": extra})]


def test_images_are_fetched_and_decoded_before_the_first_trial(config: dict[str, Any]) -> None:
    """By commands that the command line knows, and to where the run looks for them."""
    commands = [shlex.split(command)[1:] for command in config["setup_commands"] if command.startswith("tune-ablation ")]
    download, prepare = (cli._parser().parse_args(command) for command in commands)
    assert download.command is cli._data_download
    assert prepare.command is cli._data_prepare
    assert prepare.data == download.to / "tiny-imagenet-200"
    assert config["cluster_synced_files"] == [f"{download.to}/{PurePosixPath(URL).name}"]


def test_shells_on_the_head_know_the_results_place(config: dict[str, Any], tmp_path: Path) -> None:
    """The commands themselves, run here, twice as a second `ray up` would."""
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"HOME": str(tmp_path), "PATH": python}
    commands = [command for command in config["head_setup_commands"] if ".tune-ablation.sh" in command]
    for command in commands * 2:
        subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, check=True)
    shown = ["bash", "-c", '. ~/.bashrc; echo "$RESULTS $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED"']
    found = subprocess.run(shown, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert found == f"{config['metadata']['results']} token 0"
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An AWS on this machine, and the environment that leads there; nothing in it leads anywhere else."""
    pytest.importorskip("boto3", reason="needs boto3")
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(LOOPBACK_ONLY)
    environment = {
        "AUTOSCALER_NODE_START_WAIT_S": "1",  # Ray gives up on SSH, which no node here answers
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:{1}".format(*server.get_host_and_port()),
        "AWS_SECRET_ACCESS_KEY": "testing",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path / "guard"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TMPDIR": str(tmp_path),
    }
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield environment
    server.stop()


@pytest.mark.slow
def test_ray_up_asks_aws_for_just_what_the_file_says(aws: dict[str, str], tmp_path: Path) -> None:
    """The whole of `ray up` to its first SSH, then a worker as the head would start it."""
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    filled = yaml.safe_load(TEXT)
    region = filled["provider"]["region"]
    ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
    group = ec2.create_security_group(GroupName="own", Description="own", VpcId=ec2.describe_vpcs()["Vpcs"][0]["VpcId"])["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    for name in (filled["metadata"]["head_profile"], filled["metadata"]["worker_profile"]):
        iam.create_instance_profile(InstanceProfileName=name)
    values = {"image": ec2.describe_images()["Images"][0]["ImageId"], "security_group": group, "results": "s3://bucket/results"}
    text = TEXT
    for name, value in values.items():
        text = text.replace(filled["metadata"][name], value)
    assert PLACEHOLDER not in text
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("not-a-token")
    # A proxy that fails at once: ssh itself opens no connection then, whatever address the node is said to have.
    text = text.replace("  ssh_user: ubuntu", '  ssh_user: ubuntu\n  ssh_proxy_command: "false"')
    (tmp_path / "cluster.yaml").write_text(text)
    before = {found["GroupId"] for found in ec2.describe_security_groups()["SecurityGroups"]}

    command = [sys.executable, "-m", "ray.scripts.scripts", "up", "--yes", str(tmp_path / "cluster.yaml")]
    result = subprocess.run(command, env=aws, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert "Failed to setup head node" in result.stdout + result.stderr, result.stdout + result.stderr
    assert "may not reach" not in result.stdout + result.stderr

    def instances() -> dict[str, dict[str, Any]]:
        found = [item for reservation in ec2.describe_instances()["Reservations"] for item in reservation["Instances"]]
        return {next(tag["Value"] for tag in item["Tags"] if tag["Key"] == "ray-user-node-type"): item for item in found}

    head = instances()["head"]
    assert len(instances()) == 1
    assert "InstanceLifecycle" not in head
    resolved = json.loads(next(tmp_path.glob("ray-config-*")).read_text())["config"]
    provider = AWSNodeProvider(resolved["provider"], resolved["cluster_name"])  # type: ignore[no-untyped-call]  # ray is typed only in part
    provider.create_node(resolved["available_node_types"]["gpu"]["node_config"], {"ray-user-node-type": "gpu"}, 1)
    worker = instances()["gpu"]
    assert worker["InstanceLifecycle"] == "spot"
    for kind, node in (("head", head), ("gpu", worker)):
        asked = filled["available_node_types"][kind]["node_config"]
        assert node["InstanceType"] == asked["InstanceType"]
        assert node["ImageId"] == values["image"]
        assert [found["GroupId"] for found in node["SecurityGroups"]] == [group]
        assert node["IamInstanceProfile"]["Arn"].endswith(f"/{asked['IamInstanceProfile']['Name']}")
    assert head["KeyName"] == worker["KeyName"] == ec2.describe_key_pairs()["KeyPairs"][0]["KeyName"]
    assert (tmp_path / ".ssh" / f"{head['KeyName']}.pem").stat().st_mode & 0o077 == 0

    groups = {found["GroupId"]: found["IpPermissions"] for found in ec2.describe_security_groups()["SecurityGroups"]}
    assert set(groups) == before
    assert [[part["CidrIp"] for part in rule["IpRanges"]] for rule in groups[group]] == [["192.0.2.0/24"]]
    assert iam.list_roles()["Roles"] == []

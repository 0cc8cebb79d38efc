"""Fixtures shared by all tests: the real data set where it can be had, and a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "results"
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_imagenet_part() -> Path:
    """A zip that is by itself a complete Tiny-ImageNet of 50 classes (25,000 training, 2,500 val images)."""
    path = REAL_DATA / "tiny-imagenet-200.part1of4.zip"
    if not path.exists():
        pytest.skip(f"the real Tiny-ImageNet is not at {path}")
    return path


@pytest.fixture(scope="module")
def s3_options() -> Iterator[str]:
    """A real S3 server on loopback: moto's, which boto3, pyarrow and this project talk to as to Amazon's."""
    server_module = pytest.importorskip("moto.server", reason="the S3 server of moto[server] is not installed")
    boto3 = pytest.importorskip("boto3")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"endpoint_override={host}:{port}&scheme=http"
        server.stop()

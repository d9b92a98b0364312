"""`ray up` of ray_cluster.yaml's own commands on three hosts, of which one is cut off in mid-sweep and one dies."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from simulated_hosts import SimulatedHosts, lacking

from suite.reference import ROOT

pytestmark = pytest.mark.cluster

BIN = Path(sys.executable).parent
HEAD, CUT, KILLED = 0, 1, 2
SWEEP = """
name: sweep
data: {source: sphere, samples: 64, input_dim: 16}
encoder: {width: 256, depth: 2, embedding_dim: 8}
budget: {steps: 1500, stop_below: 0}
resources: {slots: 1}
sweep:
  seed: {range: 30}
"""
HEALTH = "RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000 RAY_health_check_failure_threshold=5"
KEPT = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude")


def on_simulated_hosts(cluster: dict, hosts: SimulatedHosts, shared: Path) -> dict:
    """The cluster with its own commands; only provider, hosts and install source are others."""
    virtual_environment, install, path = cluster["setup_commands"]
    assert "-m venv" in virtual_environment
    assert "pip install" in install
    swapped = [
        f"ln -sfn {sys.prefix} ~/stillpoint-venv",
        f'echo "export PYTHONPATH=$HOME/stillpoint {HEALTH}" >>~/.profile',
        path,
    ]
    addresses = [hosts.address(index) for index in range(hosts.count)]
    return {
        "cluster_name": f"still{os.getpid()}",
        "provider": {"type": "local", "head_ip": addresses[0], "worker_ips": addresses[1:]},
        "auth": {"ssh_user": "root", "ssh_private_key": str(hosts.key)},
        "min_workers": len(addresses) - 1,
        "max_workers": len(addresses) - 1,
        "idle_timeout_minutes": cluster["idle_timeout_minutes"],
        "file_mounts": {
            there: str(shared / "token") if here.startswith("~") else str(ROOT / here)
            for there, here in cluster["file_mounts"].items()
        },
        **{name: cluster[name] for name in KEPT},
        "setup_commands": swapped,
    }


@dataclass
class Cluster:
    """What `ray up` brought up."""

    hosts: SimulatedHosts
    file: Path
    environment: dict[str, str]

    def ray(self, *arguments: str, seconds: float = 200, expect: int = 0) -> str:
        """Run `ray` as a user does, and give what it printed."""
        command = [str(BIN / "ray"), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ray_processes(self) -> list[str]:
        """On all hosts."""
        found = [line for index in range(self.hosts.count) for line in self.hosts.processes(index)]
        return [line for line in found if re.search(r"raylet|gcs_server|ray::|dashboard\.py|monitor\.py", line)]

    def lanes(self, index: int) -> int:
        """Lanes at work on a host."""
        return sum(line.startswith("ray::_train") for line in self.hosts.processes(index))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if reason := lacking():
        pytest.skip(reason)
    (tmp_path / "token").write_text("a-token-of-these-simulated-hosts-0123456789")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    file = tmp_path / "cluster.yaml"
    with SimulatedHosts(tmp_path, 3) as hosts:
        cluster = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
        file.write_text(yaml.safe_dump(on_simulated_hosts(cluster, hosts, tmp_path), sort_keys=False))
        up = Cluster(hosts, file, environment)
        up.ray("up", str(file), "--yes", "--no-config-cache")
        yield up
    for state in Path("/tmp/ray").glob(f"cluster-still{os.getpid()}.*"):
        state.unlink()


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Wait for it; gives the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return time.monotonic() - began


def submitted(cluster: Cluster, folder: Path) -> subprocess.Popen:
    """A sweep, submitted from here through an SSH tunnel to the head."""
    head = f"root@{cluster.hosts.address(HEAD)}"
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    tunnel = ["ssh", "-i", str(cluster.hosts.key), *options, "-N", "-L", "18265:127.0.0.1:8265", head]
    entrypoint = f"stillpoint run {folder}/sweep.yaml --no-report --results {folder}/results --address auto"
    job = ["ray", "job", "submit", "--address", "http://127.0.0.1:18265", "--", *entrypoint.split()]
    script = f"{' '.join(tunnel)} & tunnel=$!; trap 'kill $tunnel' EXIT; sleep 3; {' '.join(job)}"
    return subprocess.Popen(
        ["bash", "-c", f"{script} --tracking-uri http://127.0.0.1:5000"],
        env=cluster.environment,
        stdout=open(folder / "job.log", "w"),  # noqa: SIM115: closed with the process
        stderr=subprocess.STDOUT,
    )


def test_a_sweep_outlives_a_host_that_is_cut_off_and_one_that_dies(cluster: Cluster, tmp_path: Path):
    hosts = cluster.hosts
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    until(lambda: all("raylet" in "".join(hosts.processes(i)) for i in (CUT, KILLED)), seconds=90, what="workers join")
    job = submitted(cluster, folder)

    def log() -> str:
        return (folder / "job.log").read_text()

    until(lambda: all(cluster.lanes(i) for i in range(3)), seconds=90, what="all three hosts train")
    hosts.cut(CUT)
    time.sleep(15)
    assert cluster.lanes(CUT), "the host that is cut off goes on"
    hosts.kill(KILLED)
    until(lambda: job.poll() is not None, seconds=200, what="the sweep ends")
    assert job.returncode == 0, log()
    print(log())


def tables_of(results: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in results.glob("*.parquet")}


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)

"""`ray up` of ray_cluster.yaml's own commands on three hosts, of which one is cut off in mid-sweep and one dies."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from final_check import tables, wrongs
from simulated_hosts import SimulatedHosts, lacking

from suite.reference import ROOT

pytestmark = pytest.mark.cluster

BIN = Path(sys.executable).parent
HEAD, CUT, KILLED = 0, 1, 2
DASHBOARD, MLFLOW = 18265, 15000
"""Ports on this machine that lead to the head's."""
SWEEP = """
name: sweep
data: {source: sphere, samples: 64, input_dim: 16}
encoder: {width: 256, depth: 2, embedding_dim: 8}
budget: {steps: 1500, stop_below: 0}
resources: {slots: 1}
sweep:
  seed: {range: 24}
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


@contextmanager
def tunnel(cluster: Cluster) -> Iterator[None]:
    """From this machine to the head's dashboard and its MLflow, as docs/cluster.md shows it."""
    head = f"root@{cluster.hosts.address(HEAD)}"
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    forwarded = ["-L", f"{DASHBOARD}:127.0.0.1:8265", "-L", f"{MLFLOW}:127.0.0.1:5000"]
    process = subprocess.Popen(["ssh", "-i", str(cluster.hosts.key), *options, "-N", *forwarded, head])
    try:
        for port in (DASHBOARD, MLFLOW):
            until(lambda port=port: answers(port), seconds=60, what=f"port {port} answers")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def answers(port: int) -> bool:
    try:
        return urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200
    except OSError:
        return False


@contextmanager
def submitted(cluster: Cluster, folder: Path) -> Iterator[subprocess.Popen]:
    """The sweep as a job of the cluster; what it prints goes to job.log."""
    entrypoint = f"stillpoint run {folder}/sweep.yaml --no-report --results {folder}/results --address auto"
    entrypoint += " --tracking-uri http://127.0.0.1:5000"
    command = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD}", "--"]
    with open(folder / "job.log", "w") as log:
        job = subprocess.Popen(
            [*command, *entrypoint.split()], env=cluster.environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield job
        finally:
            job.terminate()
            job.wait(timeout=20)


def test_a_sweep_outlives_a_host_that_is_cut_off_and_one_that_dies(cluster: Cluster, tmp_path: Path):
    hosts, folder = cluster.hosts, tmp_path / "shared"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    until(lambda: all("raylet" in "".join(hosts.processes(i)) for i in (CUT, KILLED)), seconds=90, what="workers join")
    with tunnel(cluster):
        with submitted(cluster, folder) as job:

            def at_work(*indices: int) -> bool:
                assert job.poll() is None, (folder / "job.log").read_text()
                return all(cluster.lanes(index) for index in indices)

            until(lambda: at_work(HEAD, CUT, KILLED), seconds=90, what="all three hosts train")
            hosts.cut(CUT)
            time.sleep(10)
            assert cluster.lanes(CUT), "a host that is cut off goes on"
            hosts.kill(KILLED)
            time.sleep(10)
            hosts.heal(CUT)
            until(lambda: job.poll() is not None, seconds=240, what="the sweep ends")
            assert job.returncode == 0, (folder / "job.log").read_text()
        undisturbed = ["run", str(folder / "sweep.yaml"), "--no-report", "--results", str(tmp_path / "calm")]
        subprocess.run([str(BIN / "stillpoint"), *undisturbed], env=cluster.environment, check=True, timeout=200)
        calm, store = tables(tmp_path / "calm" / "sweep"), f"http://127.0.0.1:{MLFLOW}"
        found = list(wrongs(folder / "results" / "sweep", calm, tracking_uri=store))
        assert not found, "\n".join(found)
    cluster.ray("down", str(cluster.file), "--yes")
    until(lambda: not cluster.ray_processes(), seconds=150, what="no Ray process is left")

"""ray_cluster.yaml and kuberay.yaml against what Ray and KubeRay take, and the image against the pins."""

import re

import pytest
import yaml

from suite.reference import ROOT

RAYJOB = {
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": dict,
    },
    "rayClusterSpec": {
        "rayVersion": str,
        "authOptions": dict,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": dict,
        "headGroupSpec": dict,
        "workerGroupSpecs": list,
    },
    "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str},
    "authOptions": {"mode": str},
    "headGroupSpec": {"serviceType": str, "rayStartParams": dict, "template": dict},
    "workerGroupSpec": {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "rayStartParams": dict,
        "template": dict,
    },
}
"""The fields used here and their types, as KubeRay's API reference for 1.6.2 documents them."""


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture
def job() -> dict:
    return yaml.safe_load((ROOT / "kuberay.yaml").read_text())


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_ray_takes_the_cluster_file(cluster: dict):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_ray_refuses_the_cluster_file_with_a_field_it_does_not_know(cluster: dict):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config(cluster | {"idle_timeout": 5}))


def test_every_start_command_carries_token_authentication(cluster: dict):
    for command in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        if re.search(r"\bray (start|stop)\b|spot_watcher", command):
            assert command.startswith("export RAY_AUTH_MODE=token;"), command
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_from_outside_only_ssh_is_let_in(cluster: dict):
    assert [rule["FromPort"] for rule in cluster["provider"]["security_group"]["IpPermissions"]] == [22]
    commands = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "--host 127.0.0.1 --port 5000" in commands
    assert "0.0.0.0" not in commands


def test_what_is_sent_to_the_nodes_exists(cluster: dict):
    for here in cluster["file_mounts"].values():
        assert here.startswith("~") or (ROOT / here).exists(), here


def test_every_field_of_the_ray_job_is_one_that_kuberay_documents(job: dict):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    parts = [("spec", job["spec"]), ("rayClusterSpec", cluster)]
    parts += [(name, cluster[name]) for name in ("autoscalerOptions", "authOptions", "headGroupSpec")]
    parts += [("workerGroupSpec", group) for group in cluster["workerGroupSpecs"]]
    for name, part in parts:
        assert set(part) <= set(RAYJOB[name]), name
        for field, value in part.items():
            assert type(value) is RAYJOB[name][field], f"{name}.{field}"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(type(value) is str for group in groups for value in group["rayStartParams"].values())


def test_the_ray_job_is_tried_again_behind_a_token_with_a_grace_above_the_drain(job: dict):
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["backoffLimit"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pins()["ray"]
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        drain = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert pod["terminationGracePeriodSeconds"] > int(drain.rpartition("--now ")[2])


def test_the_image_is_pinned_and_installs_the_pins():
    image = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-", image, re.MULTILINE)
    assert "pip install --no-cache-dir --constraint constraints.txt" in image

"""The files of cluster/: each against the schema of what reads it, and all of them against pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from intervmerge.errors import ConfigError
from intervmerge.machine import sharers
from intervmerge.search.plan import SearchPlan
from intervmerge.session.whereabouts import address_here
from intervmerge.workers.roster import places

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LAUNCHED = ("local", "aws", "gcp")

CONTAINER = {"name", "image", "resources", "volumeMounts", "env", "ports"}
POD = {"containers", "volumes"}
GROUP = {"rayStartParams", "template"}
FIELDS: Mapping[str, set[str]] = {
    "RayCluster": {"apiVersion", "kind", "metadata", "spec"},
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "RayJob.spec": {
        "entrypoint", "entrypointNumCpus", "entrypointNumGpus", "runtimeEnvYAML", "submissionMode",
        "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "suspend",
        "rayClusterSpec", "submitterPodTemplate",
    },
    "cluster": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs", "gcsFaultToleranceOptions",
    },
    "authOptions": {"mode", "secretName"},
    "autoscalerOptions": {"idleTimeoutSeconds", "upscalingMode", "resources", "image"},
    "headGroupSpec": GROUP,
    "workerGroupSpec": {
        *GROUP, "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds",
    },
}  # fmt: skip
"""Fields that KubeRay publishes for what our files use; a key beyond them is a slip that Kubernetes might drop."""


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def ray_clusters() -> Iterator[tuple[str, Any]]:
    """What KubeRay starts, by file."""
    yield "kuberay-raycluster.yaml", read("kuberay-raycluster.yaml")["spec"]
    yield "kuberay-rayjob.yaml", read("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]


def strangers(values: Mapping[str, Any], known: str | set[str]) -> set[str]:
    return set(values) - (FIELDS[known] if isinstance(known, str) else known)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_accepts_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(f"{name}.yaml")))


@pytest.mark.filterwarnings("default")
def test_rays_launcher_refuses_a_misspelt_key() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config({**read("aws.yaml"), "max_wokers": 8}))


@pytest.mark.parametrize(
    ("name", "kind"), [("kuberay-raycluster.yaml", "RayCluster"), ("kuberay-rayjob.yaml", "RayJob")]
)
def test_a_kubernetes_object_is_of_its_kind_and_has_no_unknown_field(name: str, kind: str) -> None:
    values = read(name)
    assert (values["apiVersion"], values["kind"]) == ("ray.io/v1", kind)
    assert not strangers(values, kind)
    assert kind == "RayCluster" or not strangers(values["spec"], "RayJob.spec")


@pytest.mark.parametrize(
    ("name", "cluster"), list(ray_clusters()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_ray_cluster_in_kubernetes_has_no_unknown_field(name: str, cluster: Any) -> None:
    assert not strangers(cluster, "cluster")
    assert not strangers(cluster["authOptions"], "authOptions")
    assert not strangers(cluster["autoscalerOptions"], "autoscalerOptions")
    assert not strangers(cluster["headGroupSpec"], "headGroupSpec")
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert group is cluster["headGroupSpec"] or not strangers(group, "workerGroupSpec")
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert not strangers(pod, POD)
        assert not any(strangers(container, CONTAINER) for container in pod["containers"])
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_nothing_is_reachable_without_a_token() -> None:
    assert all(cluster["authOptions"] == {"mode": "token"} for _, cluster in ray_clusters())
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert "RAY_AUTH_MODE=token" in dockerfile
    for name in LAUNCHED:
        config = read(f"{name}.yaml")
        assert any(key.endswith(".ray/auth_token") for key in config["file_mounts"])
        start = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
        ours = [line for line in start if "ray start" in line]
        assert all("RAY_AUTH_MODE=token" in line for line in ours) or "image" in config.get("docker", {})
        assert not any("0.0.0.0" in line for line in ours)
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "slurm.sbatch").read_text(encoding="utf-8")


def test_the_head_has_one_cpu_for_the_driver_and_no_gpu_for_trials() -> None:
    for name in LAUNCHED:
        head = next(line for line in read(f"{name}.yaml")["head_start_ray_commands"] if "--head" in line)
        assert "--num-cpus=1" in head
        assert "--num-gpus=0" in head
    for _, cluster in ray_clusters():
        assert cluster["headGroupSpec"]["rayStartParams"].items() >= {"num-cpus": "1", "num-gpus": "0"}.items()


def test_every_cluster_has_a_largest_size_and_gives_idle_machines_back() -> None:
    for name in LAUNCHED:
        config = read(f"{name}.yaml")
        assert 0 < config["max_workers"] <= 8
        assert 0 < config["idle_timeout_minutes"] <= 10
    for _, cluster in ray_clusters():
        assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
        assert all(0 < group["maxReplicas"] <= 8 and group["minReplicas"] == 0 for group in cluster["workerGroupSpecs"])
    job = read("kuberay-rayjob.yaml")["spec"]
    assert job["shutdownAfterJobFinishes"]
    assert job["activeDeadlineSeconds"] <= 86_400


def test_versions_of_ray_python_and_this_package_are_those_of_pyproject() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^ARG RAY_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert found is not None
    ray = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray")
    assert Version(found[1]) in ray.specifier
    assert {cluster["rayVersion"] for _, cluster in ray_clusters()} == {found[1]}
    python = re.search(r"rayproject/ray:\$\{RAY_VERSION\}-py(\d)(\d+)", dockerfile)
    assert python is not None
    assert Version(f"{python[1]}.{python[2]}") in Requirement(f"python{PROJECT['requires-python']}").specifier
    texts = [path.read_text(encoding="utf-8") for path in sorted(CLUSTER.iterdir())]
    images = {image for text in texts for image in re.findall(r"YOUR/intervmerge:(\S+?)(?=[\s`]|$)", text)}
    assert {image.rstrip(".") for image in images} == {PROJECT["version"]}


@pytest.mark.parametrize("script", ["submit.sh", "slurm.sbatch"])
def test_a_script_is_whole_shell(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    if (checker := shutil.which("shellcheck")) is not None:
        subprocess.run([checker, str(CLUSTER / script)], check=True)
    text = (CLUSTER / script).read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert "intervmerge-search" in text


@pytest.mark.filterwarnings("default")
def test_ray_takes_the_runtime_environment() -> None:
    from ray.runtime_env import RuntimeEnv

    values = read("runtime_env.yaml")
    assert RuntimeEnv(**{**values, "working_dir": str(CLUSTER)})["excludes"] == values["excludes"]
    assert {"studies", ".git", ".venv"} <= set(values["excludes"])


# ---- where am I


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        (None, {}, None),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),  # what a job of Ray's is told
        (None, {"RAY_ADDRESS": "auto"}, "auto"),
        (None, {"RAY_ADDRESS": "local"}, None),
        (None, {"RAY_ADDRESS": "http://127.0.0.1:8265"}, None),  # where jobs are submitted
        ("auto", {}, "auto"),
        ("10.0.0.2:6379", {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.2:6379"),
        ("local", {"RAY_ADDRESS": "10.0.0.1:6379"}, None),
        ("http://127.0.0.1:8265", {}, "http://127.0.0.1:8265"),  # said aloud: it is refused, not passed over
    ],
)
def test_a_search_in_a_job_of_ray_joins_its_cluster_and_another_one_only_where_it_is_told(
    given: str | None, environment: dict[str, str], found: str | None
) -> None:
    assert address_here(given, environment) == found


@pytest.mark.parametrize(
    ("share", "workers"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.3, 3), (0.33, 3), (1 / 3, 3), (0.6, 1), (1 / 7, 7)]
)
def test_shares_of_a_gpu_say_how_many_workers_divide_its_caches(share: float, workers: int) -> None:
    assert sharers(share) == workers
    plan = SearchPlan(space="mini_interventions", gpus_per_trial=share)
    assert sharers(plan.gpu_share) == workers


@pytest.mark.parametrize(
    "values", [{"gpus_per_trial": 0}, {"gpus_per_trial": 1.5}, {"gpus_per_trial": 0.5, "workers_per_gpu": 2}]
)
def test_a_share_that_no_gpu_has_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--gpus-per-trial"):
        SearchPlan(space="mini_interventions", **values)


@pytest.mark.parametrize(
    ("cpus", "threads", "workers"), [([1.0, 8.0, 8.0], 1, 17), ([1.0, 8.0, 8.0], 4, 4), ([1.0], 4, 1), ([], 1, 1)]
)
def test_a_worker_has_a_cpu_of_one_node_for_each_of_its_threads(cpus: list[float], threads: int, workers: int) -> None:
    assert places(cpus, threads) == workers

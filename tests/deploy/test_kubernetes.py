"""The manifests for Kubernetes: valid, with references that hold, and saying what they are meant to.

`kubernetes-validate` checks them against Kubernetes' own schemas, where it is installed. What KEDA takes is checked
here alone, and nothing is applied, as there is no cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfworker.settings import Settings, load
from tests.deploy.test_alerts import unknown
from tests.deploy.test_deploy import ROOT, one

KUBERNETES = ROOT / "deploy" / "kubernetes"
SITES = ["workers", "party"]
SUFFIXES = {"Mi": 1 << 20, "Gi": 1 << 30}
DAEMON_BYTES = 1 << 30
"""What the daemon, its template and spare processes may take beside the jobs."""
MADE_BY_HAND = {"sfworker-redis", "sfworker-certificates"}

each_site = pytest.mark.parametrize("site", SITES)


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that is there twice, of which YAML keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice"
        return super().construct_mapping(node, deep)


def documents(site: str) -> list[dict[str, Any]]:
    """Every object that kustomize would apply."""
    names = yaml.load((KUBERNETES / site / "kustomization.yaml").read_text(), _Strict)["resources"]  # noqa: S506
    files = {path.name for path in (KUBERNETES / site).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(names) == files
    return [each for name in names for each in yaml.load_all((KUBERNETES / site / name).read_text(), _Strict)]


def of_kind(site: str, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in documents(site) if each["kind"] in kinds]


def pod(site: str) -> dict[str, Any]:
    [workload] = of_kind(site, "Deployment", "StatefulSet")
    template: dict[str, Any] = workload["spec"]["template"]
    assert template["metadata"]["labels"].items() >= workload["spec"]["selector"]["matchLabels"].items()
    return {**template["spec"], "labels": template["metadata"]["labels"], "workload": workload}


def containers(site: str) -> list[dict[str, Any]]:
    return [*pod(site).get("initContainers", []), *pod(site)["containers"]]


def container(site: str, name: str) -> dict[str, Any]:
    [found] = [each for each in containers(site) if each["name"] == name]
    return found


def environment(site: str, name: str) -> dict[str, str]:
    """The variables of a container; secrets are a URL."""
    found = container(site, name)
    variables: dict[str, str] = {}
    for source in found.get("envFrom", []):
        assert source == {"configMapRef": {"name": "sfworker-party"}}
        lines = (KUBERNETES / site / "party.env").read_text().splitlines()
        variables |= dict(line.split("=", 1) for line in lines)
    for each in found["env"]:
        variables[each["name"]] = each.get("value", "redis://secret:secret@redis:6379/0")
    known = {"REDIS_URL", *(f"SFWORKER_{field.upper()}" for field in Settings.__struct_fields__)}
    assert set(variables) <= known
    return variables


def settings(site: str, name: str) -> Settings:
    of_image = dict(re.findall(r"(SFWORKER_\w+)='?(\S+?)'?(?: |$)", one("ENV")))
    return load(of_image | environment(site, name))


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * SUFFIXES[quantity[-2:]]


@each_site
def test_kubernetes_own_schemas_take_them(site: str) -> None:
    tool = shutil.which("kubernetes-validate", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        pytest.skip("kubernetes-validate is not installed; the checks below read the manifests without schemas")
    ours = [
        path for path in (KUBERNETES / site).glob("*.yaml") if path.name not in ("kustomization.yaml", "scaling.yaml")
    ]
    answer = subprocess.run([tool, "--strict", *ours], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@each_site
def test_kustomize_makes_them(site: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the other tests read what kustomize would put together")
    made = subprocess.run([kubectl, "kustomize", KUBERNETES / site], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    own = {(each["kind"], each["metadata"]["name"]) for each in documents(site)}
    assert own <= {(each["kind"], each["metadata"]["name"]) for each in objects}
    of_party = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    assert [set(data) for data in of_party] == [{"SFWORKER_PARTY", "SFWORKER_PEERS", "SFWORKER_DATA_ROOTS"}] * (
        site == "party"
    )


@each_site
def test_references_hold(site: str) -> None:
    spec = pod(site)
    claims = {each["metadata"]["name"] for each in of_kind(site, "PersistentVolumeClaim")}
    templates = {each["metadata"]["name"] for each in spec["workload"]["spec"].get("volumeClaimTemplates", [])}
    named = {}
    for volume in spec["volumes"]:
        named[volume["name"]] = volume
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims
        if secret := volume.get("secret"):
            assert secret["secretName"] in MADE_BY_HAND
    mounted = {mount["name"] for each in containers(site) for mount in each["volumeMounts"]}
    assert mounted == set(named) | templates
    for each in containers(site):
        for variable in each["env"]:
            if source := variable.get("valueFrom"):
                assert source["secretKeyRef"]["name"] in MADE_BY_HAND
    comment = (KUBERNETES / site / "kustomization.yaml").read_text()
    assert set(re.findall(r"kubectl create secret generic (\S+)", comment)) == {
        name for name in MADE_BY_HAND if name in str(documents(site))
    }
    ports = {port["name"]: port["containerPort"] for each in containers(site) for port in each["ports"]}
    for service in of_kind(site, "Service"):
        assert service["spec"]["selector"].items() <= spec["labels"].items()
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for other in (*of_kind(site, "PodDisruptionBudget"), *of_kind(site, "NetworkPolicy")):
        selector = other["spec"].get("selector", other["spec"].get("podSelector"))
        assert selector["matchLabels"].items() <= spec["labels"].items()
    [policy] = of_kind(site, "NetworkPolicy")
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == set(ports.values())


@each_site
def test_each_pod_is_confined_and_bounded(site: str) -> None:
    spec = pod(site)
    user, group = one("USER").split(":")
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"]) == (int(user), int(group))
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in containers(site):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(each["resources"]["limits"]) & set(each["resources"]["requests"])
        assert any(mount["mountPath"] == "/tmp" for mount in each["volumeMounts"])


@each_site
def test_jobs_get_the_time_to_drain_and_end_before_their_worker(site: str) -> None:
    worker = settings(site, "worker")
    left = worker.drain_timeout + worker.cancel_grace_seconds + 5
    if site == "party":
        left += settings(site, "gateway").drain_timeout
    assert pod(site)["terminationGracePeriodSeconds"] >= left
    limits = container(site, "worker")["resources"]["limits"]
    assert worker.concurrency * worker.memory_limit_bytes + DAEMON_BYTES <= in_bytes(limits["memory"])
    assert 0 < worker.max_memory_limit_bytes <= worker.memory_limit_bytes
    [run] = [volume for volume in pod(site)["volumes"] if volume["name"] == "run"]
    [logs] = [volume for volume in pod(site)["volumes"] if volume["name"] == "logs"]
    scratch, kept = (in_bytes(volume["emptyDir"]["sizeLimit"]) for volume in (run, logs))
    assert worker.concurrency * worker.scratch_limit_bytes <= scratch
    assert scratch + kept <= in_bytes(limits["ephemeral-storage"])


@each_site
def test_probes_ask_what_listens(site: str) -> None:
    for each in containers(site):
        ours = settings(site, each["name"])
        address = ours.gateway_health if each["name"] == "gateway" else ours.health
        ports = {port["name"]: port["containerPort"] for port in each["ports"]}
        for kind, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            if each["name"] == "gateway" and kind == "readinessProbe":
                assert kind not in each  # peers are to reach it while the worker takes no jobs
                continue
            asked = each[kind]["httpGet"]
            assert asked["path"] == path
            assert address == f"0.0.0.0:{ports[asked['port']]}"


def test_no_two_parties_share_a_root_or_a_volume() -> None:
    worker = settings("workers", "worker")
    mounts = {mount["mountPath"]: mount["name"] for mount in container("workers", "worker")["volumeMounts"]}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod("workers")["volumes"]
        if "persistentVolumeClaim" in volume
    }
    roots = {party: [str(root) for root in worker.roots_of(party)] for party in ("alice", "bob")}
    assert roots == {"alice": ["/data/alice"], "bob": ["/data/bob"]}
    assert len({claims[mounts[root]] for [root] in roots.values()}) == 2
    site = settings("party", "worker")
    assert [str(root) for root in site.roots_of(site.party)] == ["/data"]
    assert not {"bob", *site.peers} & set(site.data_roots)  # a peer's files are not here
    assert yaml.safe_load((KUBERNETES / "party" / "kustomization.yaml").read_text())["namespace"].endswith(site.party)


def test_worker_and_gateway_find_each_other_and_the_worker_has_no_key() -> None:
    worker, gateway = settings("party", "worker"), settings("party", "gateway")
    assert (worker.party, worker.peers) == (gateway.party, gateway.peers)
    assert worker.gateway_socket() == gateway.gateway_socket()
    assert (worker.has_gateway(), worker.tls_certificate) == (True, "")
    places = [{m["mountPath"]: m["name"] for m in container("party", n)["volumeMounts"]} for n in ("worker", "gateway")]
    assert places[0][worker.run_dir] == places[1][worker.run_dir] == "run"
    assert "certificates" not in places[0].values()
    assert container("party", "gateway")["restartPolicy"] == "Always"
    files = {gateway.tls_certificate, gateway.tls_key, gateway.tls_authority}
    comment = (KUBERNETES / "party" / "kustomization.yaml").read_text()
    assert files == {f"/certificates/{name}" for name in re.findall(r"--from-file=(\S+)", comment)}
    [service] = [each for each in of_kind("party", "Service") if each["spec"].get("type") == "LoadBalancer"]
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_workers_are_scaled_by_what_is_queued_and_runs() -> None:
    [scaled] = of_kind("workers", "ScaledObject")
    [workload] = of_kind("workers", "Deployment")
    spec = scaled["spec"]
    assert spec["scaleTargetRef"]["name"] == workload["metadata"]["name"]
    assert "replicas" not in workload["spec"]  # or each `apply` would undo what KEDA has set
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    [trigger] = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    assert unknown(trigger["metadata"]["query"]) == set()
    assert set(re.findall(r"sfworker_\w+", trigger["metadata"]["query"])) == {
        "sfworker_stream_queued",
        "sfworker_stream_pending",
    }
    assert int(trigger["metadata"]["threshold"]) == settings("workers", "worker").concurrency
    assert all(isinstance(value, str) for value in trigger["metadata"].values())

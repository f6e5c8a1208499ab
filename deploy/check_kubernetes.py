"""Check deploy/kubernetes: each manifest by its schema, and whether they agree.

What is deployed is built by kubectl (or kustomize). Without either, the manifests of
the base and the components are checked as they are in their files.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

FOLDER = Path(__file__).parent / "kubernetes"
OVERLAY = FOLDER / "overlays" / "production"
# Of the lowest and the highest release of Kubernetes that the manifests are for.
VERSIONS = ("1.34", "1.37")
# What others define; no schema of these is at hand.
CUSTOM = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor"}
# README.md has them created by hand: nothing secret is in the repository.
SECRETS = {"resilient-site", "resilient-site-tls"}

Manifest = Mapping[str, Any]


def build(folder: Path = OVERLAY) -> list[Manifest]:
    """Return what `kubectl apply -k` would send; raises LookupError without a tool."""
    for program, *arguments in (("kubectl", "kustomize"), ("kustomize", "build")):
        if found := shutil.which(program):
            command = [found, *arguments, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise SystemExit(done.stderr)
            return list(yaml.safe_load_all(done.stdout))
    raise LookupError("neither kubectl nor kustomize is installed")


def read_files() -> list[Manifest]:
    """Return the manifests of the base and the components, unpatched."""
    paths = (*FOLDER.glob("base/*.yaml"), *FOLDER.glob("components/*/*.yaml"))
    parts = (yaml.safe_load_all(path.read_text()) for path in sorted(paths))
    found = [manifest for part in parts for manifest in part]
    return [one for one in found if one["kind"] not in {"Kustomization", "Component"}]


def pod_of(manifest: Manifest) -> dict[str, Any] | None:
    """Return the template of the pods that the manifest starts, if it starts any."""
    spec = manifest.get("spec", {})
    template: dict[str, Any] | None = spec.get("jobTemplate", {"spec": spec})[
        "spec"
    ].get("template")
    return template


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def schema_problems(manifests: Iterable[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        for version in VERSIONS if manifest["kind"] not in CUSTOM else ():
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                yield f"{title(manifest)}, {version}: {where}: {error.message}"


def reference_problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yield what names something that is not there."""
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    names |= {("Secret", name) for name in SECRETS}
    pods = [pod for one in manifests if (pod := pod_of(one))]
    for manifest in manifests:
        target = manifest.get("spec", {}).get("scaleTargetRef")
        if target and (target.get("kind", "Deployment"), target["name"]) not in names:
            yield f"{title(manifest)}: no {target['name']} to scale"
        for where, selector in _selectors(manifest):
            if not any(_selects(selector, pod) for pod in pods):
                yield f"{title(manifest)}: {where} selects no pod"
        for selector, port in _named_ports(manifest):
            chosen = [pod for pod in pods if _selects(selector, pod)]
            if not all(port in _ports(pod) for pod in chosen):
                yield f"{title(manifest)}: no port {port}"
        if pod := pod_of(manifest):
            yield from _pod_problems(manifest, pod["spec"], names)


def _selectors(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    spec, kind = manifest.get("spec", {}), manifest["kind"]
    if kind in {"Deployment", "Service", "PodDisruptionBudget"}:
        yield "its selector", spec["selector"]
    if kind == "NetworkPolicy":
        yield "its selector", spec["podSelector"]
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                if "namespaceSelector" not in peer and "podSelector" in peer:
                    yield "a rule", peer["podSelector"]
    for spread in (pod_of(manifest) or {"spec": {}})["spec"].get(
        "topologySpreadConstraints", ()
    ):
        yield "its spread", spread["labelSelector"]


def _selects(selector: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    labels = pod["metadata"]["labels"]
    is_plain = not {"matchLabels", "matchExpressions"} & selector.keys()
    wanted = selector if is_plain else selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", ())
    )


def _ports(pod: Mapping[str, Any]) -> dict[str, int]:
    ports = (port for one in pod["spec"]["containers"] for port in one.get("ports", ()))
    return {port["name"]: port["containerPort"] for port in ports}


def _named_ports(manifest: Manifest) -> Iterator[tuple[Any, str]]:
    """Yield selectors of pods, and the names of ports that they are reached by."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        yield from ((spec["selector"], port["targetPort"]) for port in spec["ports"])
    if manifest["kind"] != "NetworkPolicy":
        return
    reached = [(spec["podSelector"], rule) for rule in spec.get("ingress", ())]
    for rule in spec.get("egress", ()):
        reached += [(to.get("podSelector", {}), rule) for to in rule.get("to", ())]
    for selector, rule in reached:
        for port in rule["ports"]:
            if isinstance(port["port"], str):
                yield selector, port["port"]


def _pod_problems(
    manifest: Manifest, pod: Mapping[str, Any], names: set[tuple[str, str]]
) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        ports = [port["name"] for port in container.get("ports", ())]
        for name, probe in container.items():
            if name.endswith("Probe") and probe["httpGet"]["port"] not in ports:
                yield f"{title(manifest)}: {name} has no such port"
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        for name in sorted(mounted - volumes):
            yield f"{title(manifest)}: no volume {name}"
        if not _is_restricted(container, pod):
            yield f"{title(manifest)}: {container['name']} may do more than it needs"
    for reference in _references(pod):
        if reference not in names:
            yield f"{title(manifest)}: no {' '.join(reference)}"


def _references(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for container in pod["containers"]:
        for source in container.get("envFrom", ()):
            for kind, reference in source.items():
                name = "Secret" if kind == "secretRef" else "ConfigMap"
                yield name, reference["name"]
    for volume in pod.get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]


def _is_restricted(container: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    security = container.get("securityContext", {})
    return (
        security.get("readOnlyRootFilesystem") is True
        and security.get("allowPrivilegeEscalation") is False
        and security.get("capabilities") == {"drop": ["ALL"]}
        and pod.get("securityContext", {}).get("runAsNonRoot") is True
        and pod.get("automountServiceAccountToken") is False
        and "memory" in container.get("resources", {}).get("limits", {})
    )


def main() -> int:
    try:
        manifests = build()
    except LookupError as why:
        print(f"{why}: the manifests are not built", file=sys.stderr)  # noqa: T201
        problems = list(schema_problems(read_files()))
    else:
        problems = [*schema_problems(manifests), *reference_problems(manifests)]
    print(*problems, sep="\n", end="\n" if problems else "")  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

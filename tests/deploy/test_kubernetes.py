"""The manifests agree with each other, and with what the code reads and serves."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands

from deploy import check_kubernetes as check
from resilient_site.edge.probes import PATHS
from tests.deploy.nginx import FOLDERS, Door, Nginx
from tests.running import ROOT
from tests.services_plugin import SETTINGS
from tests.services_plugin import _make as make

pytestmark = pytest.mark.once

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
BASE = DEPLOY / "kubernetes" / "base"


@pytest.fixture(scope="module")
def built() -> list[dict[str, Any]]:
    try:
        return check.build()
    except LookupError as why:
        pytest.skip(str(why))


@pytest.fixture
def manifests(built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return deepcopy(built)


def named(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return one of them; kustomize adds a hash to the names of ConfigMaps."""
    return next(
        one
        for one in manifests
        if one["kind"] == kind
        and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", one["metadata"]["name"])
    )


def containers(manifests: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield the containers of the site's own image, with their pods."""
    for manifest in manifests:
        if pod := check.pod_of(manifest):
            (container,) = pod["spec"]["containers"]
            if "resilient-site" in container["image"]:
                yield container, pod["spec"]


def settings_of(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return named(manifests, "ConfigMap", "settings")["data"]


def test_manifests_are_valid(manifests: list[dict[str, Any]]):
    found = [*check.schema_problems(manifests), *check.reference_problems(manifests)]
    assert found == []
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"Deployment", "HorizontalPodAutoscaler", "Job", "CronJob"} <= kinds
    assert "Secret" not in kinds


def test_files_are_valid_without_a_tool_that_builds():
    assert [*check.schema_problems(check.read_files())] == []


# A path of the manifest, the value it gets there, and what is found of it.
BROKEN = [
    ("Service", "nginx", "spec.selector", {"app.kubernetes.io/component": "x"}, "pod"),
    ("Service", "web", "spec.ports.0.targetPort", "htp", "no port htp"),
    ("PodDisruptionBudget", "relay", "spec.selector", {"matchLabels": {"a": "b"}}, ""),
    ("HorizontalPodAutoscaler", "web", "spec.scaleTargetRef.name", "wob", "no wob"),
    ("ScaledObject", "workers", "spec.scaleTargetRef.name", "work", "no work"),
    ("NetworkPolicy", "web", "spec.ingress.0.ports.0.port", "htp", "no port htp"),
    ("Deployment", "web", "spec.template.spec.volumes.0.name", "x", "no volume data"),
    ("Deployment", "nginx", "spec.template.spec.volumes.0.configMap.name", "x", "no "),
    ("Deployment", "web", "spec.template.spec.containers.0.imge", "x", "imge"),
    ("Deployment", "web", "spec.replicas", "two", "integer"),
    ("Job", "migrate", "spec.template.spec.containers.0.securityContext", {}, "more"),
]


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "found"), BROKEN, ids=lambda part: str(part)[:30]
)
def test_error_in_a_manifest_is_found(
    manifests: list[dict[str, Any]],
    kind: str, name: str, path: str, value: Any, found: str,
):  # fmt: skip
    broken = place = named(manifests, kind, name)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    place[last] = value
    problems = [*check.schema_problems([broken]), *check.reference_problems(manifests)]
    assert problems
    assert all(f"{kind} {name}" in problem for problem in problems)
    assert found in problems[0]


def test_settings_are_those_that_the_code_reads(manifests: list[dict[str, Any]]):
    assert settings_of(manifests).keys() <= SETTINGS
    for source in (*BASE.parent.rglob("*.yaml"), BASE.parent / "README.md"):
        text = source.read_text()
        assert set(re.findall(r"- ([A-Z_]+)=", text)) <= SETTINGS, source
        assert set(re.findall(r"--from-literal=([A-Z_]+)", text)) <= SETTINGS, source
    # Each container has all of them, and the Secret.
    for container, _ in containers(manifests):
        configuration, secret = container["envFrom"]
        assert configuration["configMapRef"]["name"].startswith("settings-")
        assert secret["secretRef"]["name"] == "resilient-site"
        assert "env" not in container


def test_commands_exist(manifests: list[dict[str, Any]]):
    commands = [container["command"] for container, _ in containers(manifests)]
    managed = {command[2] for command in commands if command[1] == "manage.py"}
    assert managed == {"migrate", "compute", "relay_events", "clean_up"}
    assert managed <= get_commands().keys()
    (web,) = (command for command in commands if command[1] == "-m")
    # As the image starts it: there this file is.
    assert str(web).replace("'", '"') in DOCKERFILE
    assert "COPY deploy/gunicorn.conf.py deploy/gunicorn.conf.py" in DOCKERFILE


def test_probes_and_ports_are_those_of_the_web_processes(
    manifests: list[dict[str, Any]],
):
    web = named(manifests, "Deployment", "web")
    (container,) = check.pod_of(web)["spec"]["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in (
        "startup", "liveness", "readiness",
    )}  # fmt: skip
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    scraped = named(manifests, "ServiceMonitor", "web")["spec"]["endpoints"][0]["path"]
    assert {*probes.values(), scraped} <= PATHS.keys()
    (port,) = container["ports"]
    assert container["command"][-1].endswith(f":{port['containerPort']}")
    assert f"EXPOSE {port['containerPort']}\n" in DOCKERFILE
    upstream = (BASE / "nginx" / "upstream.conf").read_text()
    service = named(manifests, "Service", "web")
    host = f"web.{service['metadata']['namespace']}.svc.cluster.local"
    assert f"server {host}:{port['containerPort']} resolve" in upstream


def test_workers_and_relay_are_scraped_where_they_serve_metrics(
    manifests: list[dict[str, Any]],
):
    port = int(settings_of(manifests)["METRICS_BIND"].rpartition(":")[2])
    monitor = named(manifests, "PodMonitor", "workers")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    (scraped,) = monitor["selector"]["matchExpressions"]
    policy = named(manifests, "NetworkPolicy", "metrics")["spec"]
    assert policy["podSelector"]["matchExpressions"] == [scraped]
    assert policy["ingress"][0]["ports"] == [{"port": endpoint["port"]}]
    for name in scraped["values"]:
        (container,) = check.pod_of(named(manifests, "Deployment", name))["spec"][
            "containers"
        ]
        assert container["ports"] == [{"name": endpoint["port"], "containerPort": port}]


def test_pods_are_given_the_time_to_stop(manifests: list[dict[str, Any]]):
    def times(name: str) -> tuple[int, int]:
        pod = check.pod_of(named(manifests, "Deployment", name))["spec"]
        (container,) = pod["containers"]
        hook = container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        return pod["terminationGracePeriodSeconds"], hook["sleep"]["seconds"]

    gunicorn = (DEPLOY / "gunicorn.conf.py").read_text()
    graceful = int(re.findall(r"^graceful_timeout = (\d+)", gunicorn, re.M)[0])
    given, drain = times("web")
    assert given >= drain + graceful + 5
    # The DNS has the pod until nginx asks again.
    upstream = (BASE / "nginx" / "upstream.conf").read_text()
    assert drain >= 5 + int(re.findall(r"valid=(\d+)s", upstream)[0])
    assert times("workers")[0] >= int(settings_of(manifests)["COMPUTE_GRACE_S"]) + 5
    configuration = (DEPLOY / "nginx" / "nginx.conf").read_text()
    shutdown = int(re.findall(r"worker_shutdown_timeout (\d+)s", configuration)[0])
    given, drain = times("nginx")
    assert given >= drain + shutdown + 5


def test_pods_write_where_the_image_does(manifests: list[dict[str, Any]]):
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)[-1]
    data = re.findall(r"DATA_DIR=(\S+)", DOCKERFILE)[-1]
    for container, pod in containers(manifests):
        context = pod["securityContext"]
        ids = context["runAsUser"], context["runAsGroup"], context["fsGroup"]
        assert ids == (int(user), int(group), int(group))
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]]["emptyDir"]["sizeLimit"]
            for mount in container["volumeMounts"]
        }
        assert {data, "/tmp"} <= mounts.keys() <= {data, "/tmp", "/dev/shm"}


def test_scaling_is_by_the_queue_of_the_jobs(manifests: list[dict[str, Any]]):
    scaling = named(manifests, "ScaledObject", "workers")["spec"]
    (trigger,) = scaling["triggers"]
    assert trigger["metadata"]["queueName"] == settings.CELERY_TASK_DEFAULT_QUEUE
    # The pods publish the jobs, too.
    assert scaling["minReplicaCount"] >= 1
    given = settings_of(manifests)
    assert given["COMPUTE_BACKEND"] == "celery"
    each = int(trigger["metadata"]["value"])
    assert each == 2 * int(given["COMPUTE_PROCESSES"])
    workers = named(manifests, "Deployment", "workers")["spec"]
    assert "replicas" not in workers


def test_nginx_serves_by_its_configuration(manifests: list[dict[str, Any]]):
    """But for what an older one than that of the image does not know."""
    nginx = make(Nginx)
    here = {
        "/var/cache/nginx|/tmp": str(nginx.dir),
        r"^resolver .*| resolve\b|ssl_certificate_cache.*|http2 on;": "",
        r"web\.resilient-site\.svc\.cluster\.local": "127.0.0.1",
        "/etc/nginx/tls": str(nginx.config),
        r"/tls\.crt": "/certificate.pem",
        r"/tls\.key": "/key.pem",
        "/dev/std...": "log-of-nginx",
        r"\b8080\b": str(nginx.port),
        r"\b8443\b": str(nginx.secure),
        r"\b8090\b": str(nginx.status),
    }
    try:
        nginx.serve(1, 2)
        for name, folder in (
            ("nginx", ""), ("nginx-site", "site"), ("nginx-machine", "machine"),
        ):  # fmt: skip
            for key, text in named(manifests, "ConfigMap", name)["data"].items():
                for pattern, value in here.items():
                    text = re.sub(pattern, value, text, flags=re.M)
                (nginx.config / folder / key).write_text(text)
        with (nginx.config / "machine" / "http.conf").open("a") as config:
            config.write(FOLDERS)
        nginx.start()
        assert Door(nginx.status).get("/alive").status == 204
        plain = Door(nginx.port).get("/items/", Host="www.example")
        assert plain.headers["Location"] == "https://www.example/items/"
        insecure = ssl._create_unverified_context()
        secure = http.client.HTTPSConnection(
            "127.0.0.1", nginx.secure, context=insecure
        )
        secure.request("GET", "/api/v1/items")
        assert secure.getresponse().status == 502  # no web process is there
        secure.close()
    finally:
        nginx.close()


def test_readme_names_what_there_is(manifests: list[dict[str, Any]]):
    text = (BASE.parent / "README.md").read_text()
    commands = "\n".join(re.findall(r"^    (.*)", text, re.M))
    done = subprocess.run(["sh", "-n"], input=commands, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert all(
        (ROOT / name).exists() for name in re.findall(r"deploy/[\w/-]+", commands)
    )
    objects = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in manifests}
    used = set(re.findall(r"\b((?:deployment|job|hpa)/[a-z-]+)", commands))
    assert used <= objects
    # What is applied first has these labels.
    labels = {
        one["metadata"].get("labels", {}).get("app.kubernetes.io/component"): one
        for one in manifests
    }
    for chosen in re.findall(r"in \(([\w, -]+)\)", commands):
        assert {*chosen.split(", ")} <= labels.keys()
    created = set(re.findall(r"create secret \w+ ([\w-]+)", commands))
    assert created == check.SECRETS
    keys = yaml.safe_load(
        (BASE.parent / "components/celery/scaling.yaml").read_text().split("---")[1]
    )
    (reference,) = keys["spec"]["secretTargetRef"]
    assert f"--from-literal={reference['key']}=" in commands

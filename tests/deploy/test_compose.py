"""The services of compose.yaml, as far as they can be run without containers."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml

from tests.private_server import free_port, wait_for
from tests.running import ROOT, Site
from tests.servers import Postgres, Redis
from tests.services_plugin import _make as make

pytestmark = pytest.mark.once

DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def test_metrics_are_for_a_network_without_nginx(compose: dict[str, Any]):
    services, networks = compose["services"], compose["networks"]
    inside = {
        name for name in services if "metrics" in services[name].get("networks", ())
    }
    assert inside == {"web1", "web2", "compute", "events"}
    assert networks["metrics"]["internal"] is True
    subnets = {
        name: ipaddress.ip_network(network["ipam"]["config"][0]["subnet"])
        for name, network in networks.items()
    }
    assert not subnets["metrics"].overlaps(subnets["default"])
    allowed = services["web1"]["environment"]["METRICS_ALLOW"].split(",")
    assert [*map(str, (subnets["metrics"],))] == allowed[2:]
    assert [ipaddress.ip_network(one).is_loopback for one in allowed[:2]] == [True] * 2
    trusted = services["web1"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert trusted == str(subnets["default"])
    assert [name for name in services if "ports" in services[name]] == ["nginx"]


def test_passwords_are_required_and_set_by_the_instructions(compose: dict[str, Any]):
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == {
        "SECRET_KEY", "POSTGRES_PASSWORD", "BROKER_PASSWORD", "REDIS_PASSWORD",
    }  # fmt: skip
    optional = set(re.findall(r"\$\{([A-Z_]+):-", TEXT))
    readme = (DEPLOY / "README.md").read_text()
    exported = set(re.findall(r"\b([A-Z_]+)=", readme.partition("## In containers")[2]))
    assert required <= exported <= required | optional


def test_redis_asks_for_its_password(compose: dict[str, Any], tmp_path: Path):
    make(Redis).close()  # skips where there is none
    service, port = compose["services"]["redis"], free_port()
    assert service["environment"] == {"REDISCLI_AUTH": "${REDIS_PASSWORD:?a password}"}
    *shell, script = service["command"]
    here = f"exec {Redis.find()} - --port {port} --bind 127.0.0.1 "
    script = script.replace("exec redis-server - ", here).replace("$$", "$")
    env = {"REDISCLI_AUTH": "five-words", "PATH": os.defpath}
    server = subprocess.Popen([*shell, script], env=env, cwd=tmp_path)
    try:
        with redis.Redis(port=port, password="five-words") as client:
            wait_for(lambda: _answers(client))
            assert (
                client.config_get("maxmemory-policy")["maxmemory-policy"]
                == "allkeys-lru"
            )
        with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        # `exec`: the signal of a stop is for the server itself.
        server.terminate()
        assert server.wait(90) == 0
    finally:
        server.kill()
        server.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.faults
def test_database_is_prepared_once(compose: dict[str, Any], tmp_path: Path):
    service = compose["services"]["migrate"]
    assert service["command"] == ["sh", "/prepare.sh"]
    assert "./compose/prepare.sh:/prepare.sh:ro" in service["volumes"]
    assert {"LOAD_SAMPLE", "ADMIN_PASSWORD"} <= service["environment"].keys()
    postgres = make(Postgres).start()
    site = Site(
        tmp_path, DATABASE_URL=postgres.url(), SECRET_KEY="tests-of-a-site-" * 4
    )
    path = f"{Path(sys.executable).parent}:{site.env['PATH']}"

    def prepare(**env: str) -> str:
        done = subprocess.run(
            ["sh", "deploy/compose/prepare.sh"],
            cwd=ROOT, env=site.env | {"PATH": path} | env,
            capture_output=True, text=True, timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        said = prepare(ADMIN_PASSWORD="quite a long one", LOAD_SAMPLE="1")
        assert "Created the administrator admin." in said
        with psycopg.connect(postgres.url(), autocommit=True) as database:
            users = "SELECT username, password, is_superuser FROM auth_user"
            ((username, password, is_superuser),) = database.execute(users).fetchall()
            assert (username, is_superuser) == ("admin", True)
            ((items,),) = database.execute("SELECT count(*) FROM items_item")
            assert items > 10_000
            assert "Created" not in prepare(ADMIN_PASSWORD="another one")
            assert database.execute(users).fetchall() == [("admin", password, True)]
    finally:
        postgres.close()

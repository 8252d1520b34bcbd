"""The Docker engine and the network that the containers share."""

import json

import pytest

NETWORK = "n8n_syncbricks"


def test_docker_runs_and_starts_at_boot(host):
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


@pytest.fixture(scope="module")
def info(host):
    """What the engine says of itself."""
    return json.loads(host.check_output("docker info --format '{{json .}}'"))


def test_containers_outlive_a_restart_of_the_engine(info):
    assert info["LiveRestoreEnabled"] is True


def test_no_process_in_a_container_gains_privileges(host, probe):
    name = probe("", "-c", "'print(open(\"/proc/self/status\").read())'")
    host.check_output(f"docker wait {name}")
    assert "NoNewPrivs:\t1" in host.check_output(f"docker logs {name}")


def test_plain_http_is_spoken_only_to_the_registry_of_the_settings(info, droplet):
    insecure = [
        name for name, one in info["RegistryConfig"]["IndexConfigs"].items() if one and not one["Secure"]
    ]
    wanted = [droplet.settings["image_registry"]] if droplet.settings["image_registry_insecure"] else []
    assert insecure == wanted


def test_what_a_container_logs_is_kept_and_limited(host, info, probe):
    assert info["LoggingDriver"] == "local"
    name = probe("", "-c", "'print(1)'")
    log = json.loads(host.check_output("docker inspect --format '{{json .HostConfig.LogConfig}}' " + name))
    assert log["Config"] == {"max-file": "3", "max-size": "10m"}


def test_no_proxy_process_is_spent_on_a_published_port(host, probe):
    probe("-p 127.0.0.1:9997:80", "-m", "http.server", "80")
    got = host.run("curl -s -o /dev/null --retry 10 --retry-connrefused --max-time 20 http://127.0.0.1:9997/")
    assert got.rc == 0
    assert host.run("pgrep -x docker-proxy").rc == 1


def test_the_shared_network_has_its_subnet_and_the_bridge_the_firewall_knows(host):
    network = json.loads(host.check_output(f"docker network inspect {NETWORK}"))[0]
    assert network["Driver"] == "bridge"
    assert network["IPAM"]["Config"] == [{"Subnet": "172.30.0.0/24", "Gateway": "172.30.0.1"}]
    assert "172.30.0.1/24" in host.check_output("ip -4 address show br-memory")


@pytest.mark.parametrize("network", ["bridge", NETWORK])
def test_a_port_published_without_an_address_is_for_the_machine_itself(host, probe, network):
    name = probe(f"--network {network} -p 80", "-m", "http.server", "80")
    places = host.check_output(f"docker port {name} 80").splitlines()
    assert places
    assert all(place.startswith("127.0.0.1:") for place in places)


def test_containers_of_the_shared_network_find_each_other_by_name(host, probe):
    server = probe(f"--network {NETWORK}", "-m", "http.server", "80")
    program = (
        "import sys,time,urllib.request\n"
        "for n in range(600):\n"
        "  try: print(urllib.request.urlopen(sys.argv[1]).status); break\n"
        "  except OSError: time.sleep(0.1)\n"
    )
    client = probe(f"--network {NETWORK}", "-c", f"'{program}'", f"http://{server}/")
    host.check_output(f"docker wait {client}")
    assert host.check_output(f"docker logs {client}") == "200"

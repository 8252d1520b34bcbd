"""A container as a systemd unit, word for word."""

import subprocess

import pytest

from operations import ContainerUnit

DIGEST = "sha256:" + "a" * 64


def unit(**changes):
    values = {"name": "demo", "image": f"docker.io/demo:1@{DIGEST}", "description": "Demo", "memory_mb": 64}
    return ContainerUnit(**{**values, **changes})


def test_the_whole_unit_of_a_plain_container():
    assert unit().render() == (
        "# Written by the deploy; changes made here are repaired by the next run.\n"
        "[Unit]\n"
        "Description=Demo\n"
        "After=docker.service\n"
        "Requires=docker.service\n"
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n"
        "Type=exec\n"
        'ExecStartPre=-/bin/sh -c "exec /usr/bin/docker rm --force --volumes demo >/dev/null 2>&1"\n'
        "ExecStart=/usr/bin/docker run \\\n"
        "  --rm \\\n"
        "  --name demo \\\n"
        "  --hostname demo \\\n"
        "  --pull never \\\n"
        "  --log-driver json-file \\\n"
        "  --log-opt max-size=10m \\\n"
        "  --log-opt max-file=3 \\\n"
        "  --network n8n_syncbricks \\\n"
        "  --memory 64m \\\n"
        "  --pids-limit 256 \\\n"
        "  --cpus 1 \\\n"
        "  --security-opt no-new-privileges \\\n"
        "  --cap-drop ALL \\\n"
        "  --read-only \\\n"
        "  --stop-timeout 30 \\\n"
        f"  docker.io/demo:1@{DIGEST}\n"
        "ExecStop=/usr/bin/docker stop -t 30 demo\n"
        'ExecStopPost=-/bin/sh -c "exec /usr/bin/docker rm --force --volumes demo >/dev/null 2>&1"\n'
        "SyslogIdentifier=demo\n"
        "Restart=always\n"
        "RestartSec=5\n"
        "SuccessExitStatus=143\n"
        "TimeoutStartSec=120\n"
        "TimeoutStopSec=45\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


OPTIONS = {
    "pids": ({"pids": 64}, ["--pids-limit", "64"]),
    "cpus": ({"cpus": 0.5}, ["--cpus", "0.5"]),
    "network": ({"network": "other"}, ["--network", "other"]),
    "aliases": ({"aliases": ("db", "pg")}, ["--network-alias", "db", "--network-alias", "pg"]),
    "publish": ({"publish": ("127.0.0.1:80:8080",)}, ["--publish", "127.0.0.1:80:8080"]),
    "publish udp": ({"publish": ("0.0.0.0:443:443/udp",)}, ["--publish", "0.0.0.0:443:443/udp"]),
    "a bind mount": ({"volumes": ("/a:/b",)}, ["--mount", "type=bind,source=/a,target=/b"]),
    "a read-only mount": ({"volumes": ("/a:/b:ro",)}, ["--mount", "type=bind,source=/a,target=/b,readonly"]),
    "a named volume": ({"volumes": ("data:/b",)}, ["--mount", "type=volume,source=data,target=/b"]),
    "environment, sorted": ({"environment": {"B": "2", "A": "1 x"}}, ["--env", "A=1 x", "--env", "B=2"]),
    "user": ({"user": "999:999"}, ["--user", "999:999"]),
    "tmpfs": ({"tmpfs": ("/tmp",)}, ["--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=64m"]),
    "tmpfs with options": ({"tmpfs": ("/run:size=1m",)}, ["--tmpfs", "/run:size=1m"]),
    "capabilities": ({"cap_add": ("CHOWN",)}, ["--cap-drop", "ALL", "--cap-add", "CHOWN"]),
    "health": (
        {"health_cmd": "true || exit 1", "health_interval_s": 7},
        ["--health-cmd", "true || exit 1", "--health-interval", "7s", "--health-timeout", "5s"],
    ),
    "shared memory": ({"shm_mb": 128}, ["--shm-size", "128m"]),
    "hosts": ({"add_hosts": ("a:1.2.3.4",)}, ["--add-host", "a:1.2.3.4"]),
    "ulimits": ({"ulimits": ("nofile=1024",)}, ["--ulimit", "nofile=1024"]),
    "labels": ({"labels": {"x": "y"}}, ["--label", "x=y"]),
    "out-of-memory score": ({"oom_score_adjust": -500}, ["--oom-score-adj", "-500"]),
    "logs": ({"log_max_mb": 1, "log_files": 2}, ["--log-opt", "max-size=1m", "--log-opt", "max-file=2"]),
    "entrypoint and command": (
        {"entrypoint": "/bin/x", "command": ("-a", "b c")},
        ["--entrypoint", "/bin/x", f"docker.io/demo:1@{DIGEST}", "-a", "b c"],
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_becomes_these_words(option):
    changes, words = OPTIONS[option]
    run = list(unit(**changes).run_words())
    assert any(run[i : i + len(words)] == words for i in range(len(run)))


def test_a_writable_root_is_said_by_leaving_the_flag_out():
    assert "--read-only" not in unit(read_only=False).run_words()


def test_it_starts_after_docker_and_what_it_needs():
    text = unit(after=("droplet-postgres.service",)).render()
    assert "After=docker.service droplet-postgres.service\n" in text
    assert "Wants=droplet-postgres.service\n" in text


def test_it_waits_longer_and_longer_where_systemd_can():
    assert "RestartSteps=5\nRestartMaxDelaySec=60\n" in unit().render(systemd=254)
    assert "RestartSteps" not in unit().render(systemd=253)


def test_it_has_time_to_stop():
    text = unit(stop_timeout_s=90).render()
    assert "docker stop -t 90 demo" in text
    assert "TimeoutStopSec=105\n" in text


def test_what_systemd_would_expand_is_passed_on_as_it_is():
    text = unit(environment={"A": "50% $HOME"}, description="50% $HOME").render()
    assert '  --env "A=50%% $$HOME" \\\n' in text
    assert "Description=50%% $HOME\n" in text


class Hidden:
    def reveal(self):
        return "secret"


REFUSED = {
    "a port for everyone": ({"publish": ("5432:5432",)}, "opens the port to everyone"),
    "a name with a space": ({"name": "a b"}, "must be lower-case"),
    "no image": ({"image": ""}, "not an image reference"),
    "a strange variable": ({"environment": {"A B": "1"}}, "not a name for an environment variable"),
    "too little memory": ({"memory_mb": 1}, "Docker's least is 6"),
    "a volume without a target": ({"volumes": ("/a",)}, "must be 'source:/target'"),
    "a volume with a comma": ({"volumes": ("/a,b:/c",)}, "must be 'source:/target'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_with_a_sentence(case):
    changes, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        unit(**changes).render()


def test_a_secret_cannot_enter_the_environment():
    with pytest.raises(TypeError, match="must be mounted as a file"):
        unit(environment={"PASSWORD": Hidden()})


@pytest.mark.real
def test_systemd_accepts_the_unit(tmp_path):
    text = unit(
        environment={"ODD": "a \"b\" 50% $X \\ 'q' é"},
        health_cmd="test -e /x || exit 1",
        command=("a;b", ";"),
    ).render()
    # Neither Docker nor its service need be on the machine that runs this test.
    text = text.replace("/usr/bin/docker", "/bin/true").replace("docker.service", "sysinit.target")
    path = tmp_path / "droplet-demo.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")

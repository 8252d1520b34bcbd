"""What the look at a machine before the first change finds."""

from operations.preflight import Machine, parse_machine, problems

LINES = [
    "os debian 12",
    "uid 0",
    "free 20480",
    "memory 1967",
    'listen 22 users:(("sshd",pid=50,fd=3))',
    'listen 5432 users:(("docker-proxy",pid=70,fd=4))',
]


def machine(**changes):
    values = {
        "system": "debian",
        "version": "12",
        "free_mb": 20480,
        "memory_mb": 1967,
        "uid": 0,
        "listeners": {22: "sshd"},
    }
    return Machine(**{**values, **changes})


def test_the_output_is_read():
    assert parse_machine(LINES) == machine(listeners={22: "sshd", 5432: "docker-proxy"})


def test_a_fit_machine_has_no_problem_and_our_own_ports_are_no_obstacle():
    assert problems(parse_machine(LINES), {5432: "postgres"}, 500) == []


def test_every_obstacle_is_one_sentence_with_what_to_do():
    found = problems(
        machine(system="alpine", version="3.20", free_mb=10, uid=1000, listeners={5432: "postgres"}),
        {5432: "postgres"},
        500,
    )
    assert found == [
        "the deploy must log in as root (set DROPLET_USER=root)",
        "the machine runs alpine 3.20, but Debian 12 or 13 or Ubuntu 24.04 is needed",
        "only 10 MiB are free on /var, but 500 MiB are needed; make room first",
        "TCP port 5432 (postgres) is already taken by postgres; stop it first",
    ]

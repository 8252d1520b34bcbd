"""Containers and images: what is pulled, recorded and written."""

import base64

import pytest

from operations import ContainerUnit, container, image

PINNED = "docker.io/demo@sha256:" + "a" * 64
TAGGED = "docker.io/demo:1"
UNIT = ContainerUnit(name="demo", image=PINNED, description="Demo", memory_mb=64)
ASK = "state of a container"
PATH = "/etc/systemd/system/droplet-demo.service"
RECORD = "/var/lib/memory-droplet/images/demo"
PULL = f"have an image and record it (reference, record, pull or keep): {PINNED} {RECORD} pull"
KEEP = PULL.removesuffix("pull") + "keep"
RELOAD_SYSTEMD = "systemctl daemon-reload"


def found(text=None, mode="644", systemd="252", image_id="sha256:1", recorded=PINNED, recorded_id="sha256:1"):
    text = UNIT.render(int(systemd)) if text is None else text
    kind = f"file\tx\t{mode}\t0\troot\t0\troot\t{PATH}" if text else f"absent\t-\t0\t-\t-\t-\t-\t{PATH}"
    return [
        f"systemd\t{systemd}",
        f"text\t{base64.b64encode(text.encode()).decode()}",
        f"image\t{image_id}",
        f"recorded\t{recorded}",
        f"recorded_id\t{recorded_id}",
        kind,
    ]


def write(systemd=252):
    size = len(UNIT.render(systemd).encode())
    title = "write a file in one step (path, size, owner, mode, umask of missing directories)"
    return f"{title}: {PATH} {size} root:root 0644 022"


CASES = {
    "as declared": (found(), []),
    "nothing there": (found("", image_id="", recorded="", recorded_id=""), [PULL, write(), RELOAD_SYSTEMD]),
    "another text": (found("[Unit]\n"), [write(), RELOAD_SYSTEMD]),
    "a newer systemd": (found(UNIT.render(252), systemd="257"), [write(257), RELOAD_SYSTEMD]),
    "an open unit file": (found(mode="666"), [f"set owner and mode: root:root 0644 {PATH}"]),
    "the image is gone": (found(image_id=""), [PULL]),
    "the record is gone": (found(recorded="", recorded_id=""), [KEEP]),
    "the record is of another image": (found(recorded="docker.io/demo:0"), [KEEP]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_commands_are_exactly_these(fake_host, case):
    lines, commands = CASES[case]
    for executing in (False, True):
        outcome = fake_host.run(container, {ASK: lines}, executing=executing, unit=UNIT)
        assert outcome.summaries == commands
        assert len(outcome.facts) == 1 + (len(commands) if executing else 0)


def test_a_bare_machine_plans_everything(fake_host):
    assert fake_host.run(container, unit=UNIT).summaries == [PULL, write(), RELOAD_SYSTEMD]


def test_diff_shows_the_changed_lines_of_the_unit(fake_host):
    said = fake_host.run(container, {ASK: found(UNIT.render().replace("64m", "32m"))}, unit=UNIT).said
    assert "-  --memory 32m" in said
    assert "+  --memory 64m" in said


def test_an_image_is_pulled_once(fake_host):
    ask = "state of an image"
    settled = ["image\tsha256:1", f"recorded\t{TAGGED}", "recorded_id\tsha256:1"]
    moved = ["image\tsha256:2", f"recorded\t{TAGGED}", "recorded_id\tsha256:1"]
    arguments = {"reference": TAGGED, "label": "demo"}
    assert fake_host.run(image, {ask: settled}, **arguments).run == []
    for lines in (moved, []):
        (command,) = fake_host.run(image, {ask: lines}, **arguments).summaries
        assert command.endswith(f": {TAGGED} {RECORD} pull")


def test_a_shell_without_docker_and_systemd_is_no_failure(bare_shell):
    from operations.facts import Container, ContainerState, Image, ImageState

    asked = bare_shell(Container().command(PATH + ".absent", PINNED, RECORD + ".absent"))
    assert asked.returncode == 0
    state = Container().process(asked.stdout.splitlines())
    assert (state.unit_text, state.image, state.systemd) == (None, ImageState(), ContainerState().systemd)
    asked = bare_shell(Image().command(PINNED, RECORD + ".absent"))
    assert asked.returncode == 0
    assert Image().process(asked.stdout.splitlines()) == ImageState()

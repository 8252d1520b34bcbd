"""What the operations ask the host. No fact fails: absent and unreachable are data.

Every command ends with status 0 whatever it finds, because a fact that fails while pyinfra prepares
takes the host out of the run even if a later operation would have put things right.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase

from operations.differences import Json
from operations.file_states import PROBE, FileState, parse_probe
from operations.http_probe import HttpAnswer, Readiness, http_request, parse_answer, ready_probe
from operations.images_on_host import ImageState, image_probe, parse_image
from operations.service_plan import ServiceState, parse_service, service_probe
from operations.shell import NEVER_FAIL, script


class FileStates(FactBase[dict[str, FileState]]):
    """Kind, digest, owner and mode of many paths, in one command."""

    def command(self, paths: Sequence[str]) -> StringCommand:
        """Probe the paths."""
        return script(PROBE, *paths)

    @staticmethod
    def default() -> dict[str, FileState]:
        """Nothing known."""
        return {}

    def process(self, output: list[str]) -> dict[str, FileState]:
        """States by path."""
        return parse_probe(output)


class FileTexts(FactBase[dict[str, bytes]]):
    """The contents of files that hold no secret, for a diff."""

    def command(self, paths: Sequence[str]) -> StringCommand:
        """Print each file as one line of base64 and its path."""
        return script(
            "# texts of files\n"
            'for p in "$@"; do printf "%s\\t%s\\n" "$(base64 -w 0 < "$p")" "$p"; done 2>/dev/null; exit 0',
            *paths,
        )

    @staticmethod
    def default() -> dict[str, bytes]:
        """No file."""
        return {}

    def process(self, output: list[str]) -> dict[str, bytes]:
        """Contents by path."""
        texts = {}
        for line in output:
            encoded, _, path = line.partition("\t")
            texts[path] = decoded(encoded)
        return texts


@dataclass(frozen=True)
class SecretFileState:
    """A secret file compared on the host, so that neither content nor digest leaves it."""

    same: bool
    state: FileState
    directory_kind: str = "absent"
    directory_mode: int = 0


class SecretFile(FactBase[SecretFileState]):
    """Whether a file holds exactly what comes on standard input as base64."""

    # The digest is left out on purpose: that of a short secret can be guessed.
    _COMPARE: Final = (
        'if base64 -d 2>/dev/null | cmp -s -- - "$1" && [ ! -L "$1" ]\n'
        "then echo same; else echo differs; fi\n"
        "sha256sum() { echo -; }\n"
    )

    def command(self, path: str, directory: str) -> StringCommand:
        """Compare, then probe the file and its directory."""
        return script("# compare a secret file\n" + NEVER_FAIL + self._COMPARE + PROBE, path, directory)

    @staticmethod
    def default() -> SecretFileState:
        """Absent."""
        return SecretFileState(False, FileState(""))

    def process(self, output: list[str]) -> SecretFileState:
        """The comparison and the states."""
        found = list(parse_probe(output).values())
        if len(found) != 2:
            return self.default()
        return SecretFileState(output[0] == "same", found[0], found[1].kind, found[1].mode)


@dataclass(frozen=True)
class ContainerState:
    """What is on the host of one container: its unit file, its image, and systemd's version."""

    unit_text: str | None = None
    unit_file: FileState = field(default_factory=lambda: FileState(""))
    image: ImageState = field(default_factory=ImageState)
    systemd: int = 252


class Container(FactBase[ContainerState]):
    """Unit file and image of a container."""

    def command(self, unit_path: str, reference: str, record: str) -> StringCommand:
        """One command for all of it."""
        text = (
            "# state of a container's unit and image\n"
            + NEVER_FAIL
            + 'unit=$1 reference=$2 record=$3; set -- "$unit"\n'
            + "v=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p')\n"
            + 'printf "systemd\\t%s\\n" "$v"\n'
            + 'printf "text\\t%s\\n" "$(base64 -w 0 < "$unit" 2>/dev/null)"\n'
            + image_probe()
            + PROBE
        )
        return script(text, unit_path, reference, record)

    @staticmethod
    def default() -> ContainerState:
        """Nothing there."""
        return ContainerState()

    def process(self, output: list[str]) -> ContainerState:
        """The parsed state."""
        values = dict(line.split("\t", 1) for line in output if line.count("\t") == 1)
        states = list(parse_probe(output).values())
        unit_file = states[0] if states else FileState("")
        version = values.get("systemd", "")
        return ContainerState(
            unit_text=decoded(values.get("text", "")).decode(errors="replace")
            if unit_file.kind == "file"
            else None,
            unit_file=unit_file,
            image=parse_image(values),
            systemd=int(version) if version.isdigit() else 252,
        )


class Image(FactBase[ImageState]):
    """One image in Docker's store and what was recorded of its pull."""

    def command(self, reference: str, record: str) -> StringCommand:
        """Inspect and read the record."""
        return script(
            "# state of an image\n" + NEVER_FAIL + "reference=$1 record=$2\n" + image_probe() + "exit 0",
            reference,
            record,
        )

    @staticmethod
    def default() -> ImageState:
        """Not pulled."""
        return ImageState()

    def process(self, output: list[str]) -> ImageState:
        """The parsed state."""
        return parse_image(dict(line.split("\t", 1) for line in output if line.count("\t") == 1))


class Service(FactBase[ServiceState]):
    """A unit's state and the digest of everything it reads."""

    def command(self, unit: str, stamp: str, reads: Sequence[str]) -> StringCommand:
        """Ask systemd and digest the files."""
        return script(service_probe(), unit, stamp, *reads)

    @staticmethod
    def default() -> ServiceState:
        """No systemd, no unit."""
        return ServiceState()

    def process(self, output: list[str]) -> ServiceState:
        """The parsed state."""
        return parse_service(output)


class HttpReady(FactBase[Readiness]):
    """Whether a URL answers as expected within some attempts; they are only made if it did before."""

    def command(
        self, url: str, status: int, json_key: str | None, marker: str, attempts: int, delay_s: float
    ) -> StringCommand:
        """Look at the note, then at the URL."""
        text = (
            ready_probe()
            + 'if [ -f "$6" ]; then echo before; n=$4; else n=1; fi\n'
            + 'until ready "$1" "$2" "$3"; do n=$((n-1)); [ "$n" -gt 0 ] || exit 0; sleep "$5"; done\n'
            + "echo ready; exit 0"
        )
        return script(text, url, str(status), json_key or "", str(attempts), f"{delay_s:g}", marker)

    @staticmethod
    def default() -> Readiness:
        """Never ready."""
        return Readiness()

    def process(self, output: list[str]) -> Readiness:
        """Ready now, ready before."""
        return Readiness("ready" in output, "before" in output)


class HttpObject(FactBase[HttpAnswer]):
    """The answer of a GET, made on the host."""

    def command(self, url: str, header_file: str | None) -> StringCommand:
        """GET with the headers that lie in a file on the host."""
        return http_request("GET", url, header_file, tolerate=True)

    @staticmethod
    def default() -> HttpAnswer:
        """No answer."""
        return HttpAnswer()

    def process(self, output: list[str]) -> HttpAnswer:
        """Status and decoded body."""
        return parse_answer(output)


@dataclass(frozen=True)
class ReconcilePlan:
    """What a reconcile script would do; ``error`` is why there is no plan, ``before`` that it was applied."""

    reachable: bool = False
    differences: tuple[str, ...] = ()
    error: str = ""
    before: bool = False


class Reconcile(FactBase[ReconcilePlan]):
    """The plan that a script on the host makes."""

    def command(self, path: str, marker: str) -> StringCommand:
        """Run it; its standard error comes back only if it fails."""
        return script(
            "# what a script would reconcile\n"
            'if [ -f "$2" ]; then echo before; else echo never; fi\n'
            'if [ ! -f "$1" ]; then echo absent; exit 0; fi\n'
            "command -v python3 >/dev/null || { echo absent; exit 0; }\n"
            "e=$(mktemp) || exit 0; trap 'rm -f \"$e\"' EXIT\n"
            'o=$(timeout 300 python3 "$1" plan 2>"$e"); s=$?\n'
            'if [ "$s" -eq 0 ]; then printf "%s\\n" "$o"; else echo "failed $s"; tail -n 3 "$e"; fi\n'
            "exit 0",
            path,
            marker,
        )

    @staticmethod
    def default() -> ReconcilePlan:
        """Nothing can be said yet."""
        return ReconcilePlan()

    def process(self, output: list[str]) -> ReconcilePlan:
        """The plan, or the reason why there is none."""
        before = output[:1] == ["before"]
        text = "\n".join(output[1:]).strip()
        if text == "absent":
            return ReconcilePlan(before=before)
        if text.startswith("failed "):
            return ReconcilePlan(error=" ".join(text.split("\n")[1:]) or f"plan {text}", before=before)
        try:
            plan: Json = json.loads(text)
        except ValueError:
            plan = None
        if not isinstance(plan, dict) or not isinstance(plan.get("differences"), list):
            return ReconcilePlan(
                error=f"`plan` did not print its JSON object but: {text[:200]}", before=before
            )
        differences = plan["differences"]
        assert isinstance(differences, list)
        return ReconcilePlan(
            plan.get("reachable") is True, tuple(str(line) for line in differences), before=before
        )


class SqlAnswer(FactBase[Json]):
    """What a query on the Postgres of a container says: JSON, or None while the server is not there."""

    def command(self, probe: str, arguments: Sequence[str]) -> StringCommand:
        """``probe`` is a script of ``operations.sql_scripts``; it prints one JSON text."""
        return script(probe, *arguments)

    @staticmethod
    def default() -> Json:
        """No server."""
        return None

    def process(self, output: list[str]) -> Json:
        """The decoded answer; what is not JSON means that the server did not answer."""
        try:
            answer: Json = json.loads("\n".join(output))
        except ValueError:
            return None
        return answer


def decoded(encoded: str) -> bytes:
    """Bytes of a base64 text; what was cut off or is no base64 reads as nothing."""
    try:
        return base64.b64decode(encoded)
    except binascii.Error:
        return b""

"""`drill pin`: ask a registry for the digest behind each tag and write it into images.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from drill.errors import DrillError, UsageMistake

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: An index of several platforms first: its digest is the one that every machine can pull by.
ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
TIMEOUT_S: Final = 20


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    name: str
    reference: str
    #: Empty where the tag could not be resolved.
    digest: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name:11} {self.reference}  {self.digest or 'NOT RESOLVED'}  {self.detail}".rstrip()


class _Unresolved(Exception):
    """A tag has no digest to be had; the text says why."""


def _challenge(header: str) -> dict[str, str]:
    """The parameters of a `WWW-Authenticate: Bearer realm="...",service="..."` header."""
    return dict(re.findall(r'(\w+)="([^"]*)"', header))


def _token(session: requests.Session, header: str, path: str) -> str:
    """An anonymous token for reading a repository, from the place the registry names."""
    challenge = _challenge(header)
    if not header.lower().startswith("bearer") or "realm" not in challenge:
        raise _Unresolved("the registry asks for a login")
    answer = session.get(
        challenge["realm"],
        params={"service": challenge.get("service", ""), "scope": f"repository:{path}:pull"},
        timeout=TIMEOUT_S,
    )
    if answer.status_code != 200:
        raise _Unresolved(f"{challenge['realm']} gave no token (HTTP {answer.status_code})")
    document = answer.json()
    return str(document.get("token") or document.get("access_token") or "")


def _base_url(registry: str) -> str:
    if "://" in registry:
        return registry.rstrip("/")
    # Docker Hub's name is not the name of its registry.
    host = "registry-1.docker.io" if registry in ("docker.io", "index.docker.io") else registry
    plain = re.fullmatch(
        r"(localhost|127\.[\d.]+|10\.[\d.]+|192\.168\.[\d.]+|172\.(1[6-9]|2\d|3[01])\.[\d.]+)(:\d+)?", host
    )
    return f"{'http' if plain else 'https'}://{host}"


def resolve(registry: str, path: str, tag: str) -> str:
    """The digest behind a tag. Private addresses are asked over plain HTTP, all others over HTTPS.

    Raises:
        UsageMistake: never; a registry that cannot answer raises DrillError with the reason.
    """
    url = f"{_base_url(registry)}/v2/{path}/manifests/{tag}"
    session = requests.Session()
    try:
        answer = session.head(url, headers={"Accept": ACCEPT}, timeout=TIMEOUT_S, allow_redirects=True)
        if answer.status_code == 401:
            token = _token(session, answer.headers.get("WWW-Authenticate", ""), path)
            answer = session.head(
                url,
                headers={"Accept": ACCEPT, "Authorization": f"Bearer {token}"},
                timeout=TIMEOUT_S,
                allow_redirects=True,
            )
    except (requests.RequestException, ValueError) as error:
        raise DrillError(f"{registry} cannot be reached: {type(error).__name__}") from error
    except _Unresolved as error:
        raise DrillError(str(error)) from error
    if answer.status_code != 200:
        raise DrillError(f"{url}: HTTP {answer.status_code}")
    digest = answer.headers.get("Docker-Content-Digest", "")
    if not DIGEST.fullmatch(digest):
        raise DrillError(f"{url} answered without a sha256 digest")
    return digest


def rewrite(text: str, digests: dict[str, str]) -> str:
    """images.toml with these digests; nothing but the value on each section's ``digest`` line changes.

    Raises:
        UsageMistake: a section has no ``digest`` line to write to.
    """
    section = ""
    written: set[str] = set()
    lines = []
    for line in text.splitlines(keepends=True):
        header = re.match(r'\s*\[\s*"?([^\]"]+)"?\s*\]', line)
        if header:
            section = header[1].strip()
        elif section in digests:
            line, changes = re.subn(r'^(\s*digest\s*=\s*)"[^"]*"', rf'\g<1>"{digests[section]}"', line)
            if changes:
                written.add(section)
        lines.append(line)
    missing = sorted(set(digests) - written)
    if missing:
        raise UsageMistake(f'images.toml has no `digest = ""` line for {", ".join(missing)}; add one.')
    return "".join(lines)


def pin(file: Path, registry: str = "") -> list[Outcome]:
    """Resolve every tag and write the digests found; a tag that is not resolved keeps what it had.

    A digest that is already there for the same tag stays when the registry cannot be asked, as it was true
    once and is not made up; it counts as unresolved this time.
    """
    text = file.read_text()
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DrillError(f"{file} is no TOML: {error}") from error
    outcomes = []
    for name, entry in document.items():
        host, _, path = entry["repository"].partition("/")
        asked = registry or host
        reference = f"{asked}/{path}:{entry['tag']}"
        try:
            digest = resolve(asked, path, entry["tag"])
            detail = "unchanged" if digest == entry["digest"] else "pinned"
        except DrillError as error:
            kept = f"; kept {entry['digest'][:19]}" if entry["digest"] else "; stays empty: pulled by tag"
            digest, detail = "", f"{error}{kept}"
        outcomes.append(Outcome(name, reference, digest, detail))
    changed = rewrite(text, {outcome.name: outcome.digest for outcome in outcomes if outcome.digest})
    if changed != text:
        file.write_text(changed)
    return outcomes

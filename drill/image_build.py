"""Building with buildah: no daemon, no registry to pull from, a Debian base made by mmdebstrap."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from drill import laptop, paths
from drill.console import say
from drill.errors import CannotRunHere, CommandFailed
from drill.image_recipes import BASES, DPKG_OPTIONS, TOOLS, Base, Recipe, Target, context_files, inputs_hash
from drill.image_store import BUILT_LABEL, DOUBLE_LABEL, INPUTS_LABEL

MIRROR: Final = "http://deb.debian.org/debian"
CA_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
PROGRAMS: Final = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "docker-registry": "docker-registry"}
_preparing = threading.Lock()


def check_laptop() -> None:
    """Refuse at once what would fail half way, and install what is missing.

    Raises:
        CannotRunHere: the caller is not root, or a program is missing and cannot be installed.
    """
    if os.geteuid() != 0:
        raise CannotRunHere("building images needs root, for the file owners inside them; use sudo.")
    laptop.install_missing(PROGRAMS)


def laptop_certificates() -> Path | None:
    """The bundle of authorities this laptop trusts, for the time of a build."""
    for name in (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, CA_BUNDLE):
        if name and Path(name).is_file():
            return Path(name)
    return None


def _filesystem(path: Path) -> str:
    """The type of the filesystem a path lies on, from /proc/self/mounts."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, this, *_ = line.split()
        mount = mount.replace("\\040", " ")
        if f"{path}/".startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, this
    return kind


def _storage() -> list[str]:
    root = paths.cache_dir() / "containers"
    root.mkdir(parents=True, exist_ok=True)
    # An overlay cannot lie on an overlay; a plain copy per layer always works.
    driver = "vfs" if _filesystem(root) == "overlay" else "overlay"
    # What is mounted at this moment is kept apart, where a restart of the laptop clears it; one per cache.
    running = Path("/run/memory-droplet/containers") / hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return ["--root", str(root / driver), "--runroot", str(running), "--storage-driver", driver]


def _scratch() -> Path:
    """Where half-made things lie, so that those of a killed build can be found and removed."""
    directory = paths.cache_dir() / "building"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _open_files() -> str:
    """As many open files as this laptop grants, up to what any build needs: npm opens thousands at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    return f"nofile={limit}:{limit}"


def run(
    command: list[str], purpose: str, log: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a program; its output goes to ``log`` or is returned.

    Raises:
        CommandFailed: it ended with an error; the message holds the last lines it printed.
    """
    stream: AbstractContextManager[object] = log.open("ab") if log else nullcontext(subprocess.PIPE)
    with stream as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    text = log.read_text(errors="replace") if log else (done.stdout or b"").decode(errors="replace")
    if done.returncode != 0:
        last = "\n  ".join(line for line in text.splitlines()[-15:])
        hint = f" (all of it: {log})" if log else ""
        raise CommandFailed(f"could not {purpose}: {command[0]} ended with {done.returncode}{hint}\n  {last}")
    return text


def buildah(*arguments: str, purpose: str, log: Path | None = None) -> str:
    """Run buildah on our own storage, apart from any other that the laptop has."""
    # Chroot isolation asks for nothing that a container or an old kernel does not grant.
    return run(
        ["buildah", *_storage(), *arguments], purpose, log, environment={"BUILDAH_ISOLATION": "chroot"}
    )


def _has(image: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={image}", purpose="list images").strip())


def clear_leftovers() -> None:
    """Remove what a killed build left, and bases and tools that no recipe uses any more."""
    shutil.rmtree(_scratch(), ignore_errors=True)
    buildah("rm", "--all", purpose="remove working containers of an earlier build")
    buildah("rmi", "--prune", "--force", purpose="remove unnamed images of an earlier build")
    current = {tools_image(), *(_base_image(base) for base in BASES.values())}
    listed = buildah("images", "--format", "{{.Name}}:{{.Tag}}", purpose="list images").split()
    for image in sorted(set(listed) - current):
        buildah("rmi", "--force", image, purpose="remove an image of an earlier build")


def _base_image(base: Base) -> str:
    return f"localhost/drill-base:{base.suite}-{base.identity}"


def _ensure_base(base: Base) -> str:
    image = _base_image(base)
    if _has(image):
        return image
    began = time.monotonic()
    say(f"base {base.suite}: making it with mmdebstrap ...")
    with tempfile.TemporaryDirectory(prefix="base-", dir=_scratch()) as scratch:
        archive = Path(scratch) / "root.tar"
        run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"),
                *(f"--aptopt={option}" for option in base.apt_options),
                *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
                *(base.suite, str(archive), MIRROR),
            ],
            purpose=f"make a base of Debian {base.suite} (it needs to reach {MIRROR})",
        )
        container = buildah("from", "scratch", purpose="begin a base image").split()[-1]
        buildah("add", "--quiet", container, str(archive), "/", purpose="fill a base image")
        buildah(
            "commit", "--quiet", "--rm", "--format", "docker", container, image, purpose="keep a base image"
        )
    say(f"base {base.suite}: done in {time.monotonic() - began:.1f} s")
    return image


def _bind_mounts(recipe: Recipe) -> list[str]:
    """Directories and files that are there during a build and not in its result."""
    mounts = []
    cache = paths.cache_dir()
    for source, target in (
        # One per image: apt locks them, and builds run beside each other.
        (cache / "apt" / recipe.name / "archives", "/var/cache/apt/archives"),
        (cache / "apt" / recipe.name / "lists", "/var/lib/apt/lists"),
        (cache / "npm", "/var/cache/npm"),
        (cache / "uv", "/var/cache/uv"),
    ):
        source.mkdir(parents=True, exist_ok=True)
        mounts.append(f"--volume={source}:{target}")
    certificates = laptop_certificates()
    if certificates is not None:
        mounts.append(f"--volume={certificates}:{CA_BUNDLE}:ro")
    return mounts


def _build(recipe: Recipe, image: str, arguments: dict[str, str], labels: dict[str, str], log: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"context-{recipe.name}-", dir=_scratch()) as scratch:
        for name, file in context_files(recipe):
            target = Path(scratch) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        log.unlink(missing_ok=True)
        buildah(
            "build",
            # Layers of steps would only be stored and never be used again: the inputs' hash decides. Without
            # them an image is its base and one layer.
            *("--layers=false", "--format", "docker", "--pull-never", "--force-rm"),
            *("--ulimit", _open_files()),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *(f"--label={name}={value}" for name, value in labels.items()),
            *_bind_mounts(recipe),
            *("--file", str(Path(scratch) / "Containerfile"), "--tag", image, scratch),
            purpose=f"build the image {recipe.name}",
            log=log,
        )


def _log_file(recipe: Recipe) -> Path:
    directory = paths.cache_dir() / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"image-{recipe.name}.log"


def prepare(recipes: list[Recipe]) -> None:
    """Make the bases, and the tools where a recipe needs them; what is there already stays."""
    with _preparing:
        needed = {recipe.base for recipe in recipes} | (
            {TOOLS.base} if any(r.tools for r in recipes) else set()
        )
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(_ensure_base, (BASES[name] for name in sorted(needed))))
        if any(recipe.tools for recipe in recipes):
            image = tools_image()
            if not _has(image):
                began = time.monotonic()
                say("tools: building ...")
                _build(TOOLS, image, {"BASE": _ensure_base(BASES[TOOLS.base])}, {}, _log_file(TOOLS))
                say(f"tools: done in {time.monotonic() - began:.1f} s")


def tools_image() -> str:
    """The name of the image with uv and npm."""
    return f"localhost/drill-tools:{inputs_hash(TOOLS, '').partition(':')[2][:16]}"


def build_and_push(recipe: Recipe, target: Target, version: str, registry: str) -> None:
    """Build an image and push it to ``registry`` (host:port, plain HTTP); the tag appears last, in one step.

    Raises:
        CommandFailed: the build or the push failed; nothing the registry serves has changed.
    """
    image = f"localhost/drill-image:{recipe.name}"
    arguments = {"BASE": _ensure_base(BASES[recipe.base])}
    if recipe.tools:
        arguments["TOOLS"] = tools_image()
    arguments["VERSION"] = version
    labels = {
        "org.opencontainers.image.title": recipe.title,
        "org.opencontainers.image.ref.name": target.tag,
        **({"org.opencontainers.image.version": version} if recipe.exact else {}),
        "org.opencontainers.image.source": recipe.source,
        "org.opencontainers.image.base.name": f"debian {recipe.base}",
        BUILT_LABEL: "true",
        DOUBLE_LABEL: str(recipe.double).lower(),
        INPUTS_LABEL: inputs_hash(recipe, target.tag),
    }
    log = _log_file(recipe)
    _build(recipe, image, arguments, labels, log)
    buildah(
        # Docker before 23 pulls gzip only; the first level packs at disk speed and costs a tenth in size.
        *(
            "push",
            "--quiet",
            "--tls-verify=false",
            "--compression-format",
            "gzip",
            "--compression-level",
            "1",
        ),
        *(image, f"docker://{registry}/{target.path}:{target.tag}"),
        purpose=f"push the image {recipe.name}",
        log=log,
    )
    buildah("rmi", "--force", image, purpose=f"remove the working copy of the image {recipe.name}")

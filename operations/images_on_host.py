"""Images in the host's Docker: how they are looked at, pulled and recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyinfra.api.command import StringCommand

from operations.shell import script
from settings import names


@dataclass(frozen=True)
class ImageState:
    """``image_id`` is empty while the image is absent; the record is what the last pull got."""

    image_id: str = ""
    recorded_reference: str = ""
    recorded_id: str = ""

    def settled(self, reference: str) -> bool:
        """Whether exactly what was recorded for that reference is there."""
        return (
            self.image_id != "" and self.recorded_reference == reference and self.recorded_id == self.image_id
        )

    def difference(self, reference: str) -> str:
        """A sentence for what is not settled."""
        if not self.image_id:
            return f"pull {reference}"
        if self.recorded_reference != reference:
            return f"record {reference} as the image in use"
        return f"image of {reference} is {self.image_id[:19]}, recorded is {self.recorded_id[:19]}"


def record_path(label: str) -> str:
    """Where it is written what was pulled for a component."""
    return f"{names.DATA_DIR}/images/{label}"


def is_pinned(reference: str) -> bool:
    """Whether a reference names its content by digest."""
    return "@sha256:" in reference


def image_probe() -> str:
    """Shell that reads ``$reference`` and ``$record`` and prints three ``key<TAB>value`` lines."""
    return (
        'i=$(docker image inspect --format "{{.Id}}" "$reference" 2>/dev/null || true)\n'
        'printf "image\\t%s\\n" "$i"\n'
        'printf "recorded\\t%s\\n" "$(sed -n 1p "$record" 2>/dev/null)"\n'
        'printf "recorded_id\\t%s\\n" "$(sed -n 2p "$record" 2>/dev/null)"\n'
    )


def parse_image(values: Mapping[str, str]) -> ImageState:
    """The state from the lines that ``image_probe`` prints."""
    return ImageState(values.get("image", ""), values.get("recorded", ""), values.get("recorded_id", ""))


# $1 reference, $2 record, $3 "pull" or "keep".
_PULL = r"""
# have an image and record it (reference, record, pull or keep)
set -eu
if [ "$3" = pull ]; then
  fail() { echo "cannot pull $1: $2" >&2; exit 1; }
  command -v docker >/dev/null || fail "$1" "docker is not installed on the host"
  n=0
  until docker pull --quiet "$1" >/dev/null; do
    n=$((n+1))
    [ "$n" -lt 3 ] || fail "$1" "tried 3 times; check image_registry, images.toml and the way to the registry"
    sleep "$n"
  done
fi
got=$(docker image inspect --format '{{.Id}}{{"\n"}}{{range .RepoDigests}}{{.}}{{"\n"}}{{end}}' "$1")
(umask 022; mkdir -p -- "$(dirname -- "$2")")
t=$(mktemp -- "$2.XXXXXXXX"); trap 'rm -f -- "$t"' EXIT
printf '%s\n%s\n' "$1" "$got" > "$t"; chmod 0644 "$t"; mv -fT -- "$t" "$2"
"""


def settle_image(reference: str, label: str, found: ImageState) -> Iterator[StringCommand]:
    """Commands that make the image present and recorded; none if it is.

    A digest already in the store is only recorded. A tag that no longer is what was recorded is pulled
    again, because a tag can be moved by anybody.
    """
    if found.settled(reference):
        return
    present = found.image_id != "" and (is_pinned(reference) or found.recorded_reference != reference)
    yield script(_PULL, reference, record_path(label), "keep" if present else "pull")

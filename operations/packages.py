"""Packages of the distribution."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Final

from pyinfra import host
from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from operations.announcing import announce
from operations.shell import NEVER_FAIL, script

# What apt would read as an option or a removal (`name-`) is not a name.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")

# The package lists are fetched only now that something is missing, so that a dry run on a converged host
# stays empty however old they are. Another apt (unattended upgrades, or one that a killed run left behind)
# is waited for; what a killed one left half-configured is finished first.
_INSTALL: Final = r"""
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
fetch() {
  n=0
  while ! o=$(apt-get update -q 2>&1); do
    case $o in
      *"Could not get lock"*) n=$((n+1)); [ "$n" -lt 150 ] || { echo "another apt holds its lists for 5 minutes" >&2; return 1; }; sleep 2 ;;
      *) printf '%s\n' "$o" | grep '^[EW]:' >&2; echo "the package lists cannot be fetched" >&2; return 1 ;;
    esac
  done
}
install() {
  apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
fetch && install "$@" && exit 0
echo "trying again after finishing what an interrupted installation left" >&2
dpkg --configure -a && fetch && install "$@"
"""


class InstalledPackages(FactBase[set[str]]):
    """Which of some packages are installed completely."""

    def command(self, packages: Sequence[str]) -> StringCommand:
        """Ask dpkg for all of them at once; it complains of unknown ones, which is an answer too."""
        return script(
            NEVER_FAIL
            + "dpkg-query -W -f='${db:Status-Abbrev}\\t${Package}\\n' -- \"$@\" 2>/dev/null; exit 0",
            *packages,
        )

    @staticmethod
    def default() -> set[str]:
        """None."""
        return set()

    def process(self, output: list[str]) -> set[str]:
        """Names; ``ii`` means wanted, installed and configured."""
        return installed(output)


def installed(lines: Sequence[str]) -> set[str]:
    """The packages that dpkg-query calls installed and configured."""
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {name.strip() for status, name in pairs if status[1:2] == "i"}


@operation()
def packages(packages: Sequence[str]) -> Generator[PyinfraCommand, None, None]:
    """Install packages that are missing, without recommended ones; never upgrades any.

    Unlike ``apt.update(cache_time=)`` in front of ``apt.packages``, this has nothing to do on a converged
    host, also a day later.

    **Example:**

    .. code:: python

        from operations.packages import packages

        packages(name="Install nftables", packages=["nftables", "iproute2"])
    """
    for package in packages:
        if not _NAME.fullmatch(package):
            raise ValueError(f"{package!r} is not the name of a package")
    present = host.get_fact(InstalledPackages, packages=list(packages))
    missing = [package for package in packages if package not in present]
    if not missing:
        host.noop(f"{len(packages)} packages are installed")
        return
    announce(f"install {', '.join(missing)}")
    yield script(_INSTALL, *missing)

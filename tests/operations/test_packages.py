"""Packages: one question, installed only what is missing."""

import pytest

from operations.packages import installed, packages

QUERY = "dpkg-query"


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("ii \tnftables", True),
        ("hi \tnftables", True),
        ("iU \tnftables", False),
        ("iF \tnftables", False),
        ("rc \tnftables", False),
        ("un \tnftables", False),
    ],
)
def test_only_a_configured_package_counts_as_installed(line, counts):
    assert ("nftables" in installed([line])) == counts


def test_nothing_is_done_when_all_are_there(fake_host):
    done = fake_host.run(
        packages, {QUERY: ["ii \tnftables", "ii \tiproute2"]}, packages=["nftables", "iproute2"]
    )
    assert done.run == []
    assert len(done.facts) == 1


def test_only_the_missing_ones_are_installed_and_named(fake_host):
    done = fake_host.run(packages, {QUERY: ["ii \tnftables"]}, packages=["nftables", "iproute2"])
    assert len(done.run) == 1
    assert done.run[0].endswith("sh iproute2")
    assert "apt-get update" in done.run[0]
    assert "--no-install-recommends" in done.run[0]
    assert "install iproute2" in done.said


def test_a_bare_host_that_does_not_answer_plans_an_installation(fake_host):
    assert len(fake_host.run(packages, packages=["nftables"]).run) == 1


@pytest.mark.parametrize("name", ["-y", "nftables-", "a b", "", "$(id)", "nftables;id"])
def test_what_apt_would_read_differently_is_refused(fake_host, name):
    with pytest.raises(ValueError, match="is not the name of a package"):
        fake_host.run(packages, packages=[name])

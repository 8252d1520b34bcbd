"""The last step: what was deployed, on the host, so that anybody can compare it with a checkout."""

from pyinfra.api import deploy

from operations import BundleFile, bundle
from settings import names
from settings.release import release_text


@deploy("Release")
def release() -> None:
    """Record the deployed version on the host."""
    bundle(
        name="Deployed version",
        files=[BundleFile(names.RELEASE_FILE, release_text(), "root", "root", "0644")],
    )

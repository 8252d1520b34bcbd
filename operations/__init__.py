"""Our pyinfra operations: what the tasks are written with.

Every operation reads the host with one fact, decides in a pure function, and yields only the commands
that are needed; on a converged host none yields anything.
"""

from operations.bundles import BundleFile, bundle
from operations.container_unit import ContainerUnit
from operations.containers import container
from operations.http import http_object, http_ready
from operations.images import image
from operations.reconciling import reconcile
from operations.secret_files import secret_file
from operations.services import service
from operations.sql import sql_database, sql_migrations, sql_role

__all__ = [
    "BundleFile",
    "ContainerUnit",
    "bundle",
    "container",
    "http_object",
    "http_ready",
    "image",
    "reconcile",
    "secret_file",
    "service",
    "sql_database",
    "sql_migrations",
    "sql_role",
]

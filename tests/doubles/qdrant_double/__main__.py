"""`python -m qdrant_double [--config FILE] [--host H] [--port N] [--storage DIR] [--snapshots DIR]`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from .configuration import Configuration, load
from .errors import ApiError
from .server import DoubleServer


def main() -> int:
    """Serve until SIGTERM or SIGINT, then flush. Options win over variables, variables over the file."""
    parser = argparse.ArgumentParser(
        prog="qdrant_double", description="A contract double of the Qdrant server."
    )
    parser.add_argument("--config", type=Path, help="production.yaml of the server")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--storage", type=Path)
    parser.add_argument("--snapshots", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(
        level=os.environ.get("QDRANT__LOG_LEVEL", "INFO").split(",")[0].upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stdout,
    )
    # Threads of a Python process ask for 8 MiB of address space each; these need little.
    threading.stack_size(512 * 1024)
    try:
        configuration: Configuration = load(arguments.config, os.environ)
        given = {k: v for k, v in vars(arguments).items() if k != "config" and v is not None}
        if "storage" in given and "snapshots" not in given:
            given["snapshots"] = given["storage"] / "snapshots"
        server = DoubleServer(replace(configuration, **given))
    except (ValueError, OSError, ApiError) as error:
        print(f"qdrant_double: {error}", file=sys.stderr)
        return 1
    log = logging.getLogger("qdrant_double")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    log.info(
        "double of Qdrant listening on %s, keys %s",
        server.url,
        "on" if server.configuration.keys_in_force else "OFF",
    )
    server.serve_forever(poll_interval=0.2)
    server.close()
    return 0


sys.exit(main())

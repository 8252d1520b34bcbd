"""A deploy of a small service with every kind of file, for the tests on a droplet."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from pyinfra import host
from pyinfra.operations import python

from operations import BundleFile, bundle, http_ready, reconcile, secret_file, service
from operations.plan import print_plan
from tests.operations.demo_secret import SECRET

CONF = "/etc/memory-droplet/demo/conf"
PROGRAM = "/usr/local/lib/memory-droplet/demo.sh"
RECONCILE = "/usr/local/lib/memory-droplet/demo.py"

key = secret_file(
    name="Key",
    dest="/etc/memory-droplet/secrets/demo/KEY",
    content=SECRET,
    user="root",
    group="root",
)
files = bundle(
    name="Files",
    directories=[("/etc/memory-droplet/demo", "root", "root", "0755")],
    files=[
        BundleFile(CONF, f"{host.data.get('content', 'one')}\n", "root", "root", "0644"),
        BundleFile(
            PROGRAM,
            f"#!/bin/sh\nif grep -q dies {CONF}; then echo 'cannot use that' >&2; exit 3; fi\n"
            f"cp {CONF} /run/demo.loaded; cd /etc/memory-droplet/demo\n"
            "exec python3 -m http.server --bind 127.0.0.1 8799\n",
            "root",
            "root",
            "0755",
        ),
        BundleFile(
            "/etc/systemd/system/demo.service",
            f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={PROGRAM}\nRestart=always\nRestartSec=1\n"
            "[Install]\nWantedBy=multi-user.target\n",
            "root",
            "root",
            "0644",
        ),
    ],
    absent=["/etc/memory-droplet/demo/old"],
)
if host.data.get("die"):
    python.call(name="Die", function=lambda: os.kill(os.getpid(), signal.SIGKILL))
service(
    name="Service",
    unit="demo.service",
    reads=[CONF, PROGRAM, "/etc/memory-droplet/secrets/demo"],
    triggers=[files, key],
    check=f"! grep -q refused {CONF}",
    wait_s=8,
)
http_ready(name="Ready", url="http://127.0.0.1:8799/conf")
script = bundle(
    name="Script",
    files=[
        BundleFile(
            RECONCILE,
            "import json, pathlib, sys\n"
            "live = pathlib.Path('/var/lib/demo.json')\n"
            "found = live.read_text() if live.exists() else 'nothing'\n"
            "differences = [] if found == 'wanted' else [f'object: {found} -> wanted']\n"
            "if sys.argv[1] == 'plan':\n"
            "    print(json.dumps({'reachable': True, 'differences': differences}))\n"
            "else:\n"
            "    live.write_text('wanted')\n",
            "root",
            "root",
            "0755",
        )
    ],
)
reconcile(name="Reconcile", script=RECONCILE, triggers=[script])
if host.data.get("plan"):
    print_plan()

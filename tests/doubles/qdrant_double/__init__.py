"""A contract double of the Qdrant server: its REST calls over the real embedded engine.

Qdrant publishes its engine on PyPI (`qdrant-edge-py`) but its server only as a container image and as
release downloads. Where neither can be had, this process answers the calls that this project makes with
the same paths, bodies, envelopes and status codes, and stores, indexes and searches through the engine.
What it does not do: gRPC, clustering, shards, TLS, JWT, snapshots in the server's own format, and building
vector indexes in the background: the engine's ``optimize`` holds the Python interpreter until it is done
(12 s for 4,000 vectors of 512 numbers on a busy machine, qdrant-edge-py 0.9.0), so every search here is exact.
"""

from .configuration import Configuration
from .server import DoubleServer, start

__all__ = ["Configuration", "DoubleServer", "start"]

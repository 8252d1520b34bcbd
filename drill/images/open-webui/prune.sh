#!/bin/sh
# What a server never opens: source maps of the pages, tests of the packages, byte code compiled elsewhere.
set -eu
find /app/build -name '*.map' -delete
packages=/usr/local/lib/python3.11/dist-packages
find "$packages" -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} +
find "$packages" -name '*.pyi' -delete

#!/bin/sh
# Removes from node_modules what a server never loads. Argument: the node_modules directory.
set -eu
cd "$1"
# Source maps, type declarations and documentation are half of the bytes and of the files. The declarations of
# n8n's own packages and of TypeScript's library stay: n8n reads some of them while it runs.
find . -type f \( -name '*.map' -o -name '*.tsbuildinfo' -o -name '*.js.flow' -o -iname '*.md' -o -iname '*.markdown' \) \
  -delete
find . -type f \( -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) \
  ! -path '*/typescript/lib/*' ! \( -path './@n8n/*' ! -path './@n8n/*/node_modules/*' \) -delete
# Parts of a browser's user interface that n8n's packages name as dependencies; the editor itself is built
# into n8n-editor-ui.
rm -rf element-plus @element-plus reka-ui @tiptap @vueuse
# Binaries for other processors, systems and C libraries than this image's.
find . -type f \( -name '*.node' -o -name '*.exe' -o -path '*/bin/agent-browser-*' \) \
  \( -path '*darwin*' -o -path '*win32*' -o -path '*musl*' -o -path '*arm64*' \) -delete
rm -f isolated-vm/*.tgz
find . -depth -type d -empty -delete
# npm installs a package once per place that needs it; equal files become one.
hardlink --quiet --ignore-time --minimum-size 2048 .

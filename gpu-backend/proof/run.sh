#!/bin/sh
# Runs the proof on a machine that may have neither Node nor packages: what `npm run gpu:proof -- --pack`
# put into .sluice/proof-kit travels with the tree. A shell script because nothing else is sure to be there.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
kit=$root/.sluice/proof-kit
results=$root/gpu-backend/proof/results
if [ ! -f "$kit/node.gz" ]; then
  echo "there is no $kit/node.gz: run npm run gpu:proof -- --pack where there is Node, and bring it along" >&2
  exit 2
fi

# Nothing is written into the tree but results: it may be read-only, and Node looks for packages beside it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
cp -R "$root/package.json" "$root/gpu-backend" "$root/weights" "$root/test" "$kit/node_modules" "$work"
gzip -dc "$kit/node.gz" > "$work/node"
chmod +x "$work/node"

# Where container runtimes put the driver; the loader may not have been told.
for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
  [ -d "$folder" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export LD_LIBRARY_PATH

status=0
"$work/node" "$work/gpu-backend/proof/main.ts" --out "$results" "$@" || status=$?
exit "$status"

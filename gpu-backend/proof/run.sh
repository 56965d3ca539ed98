#!/bin/sh
# Runs the proof on a machine that may have neither Node nor packages: what `npm run gpu:proof -- --pack`
# put into .sluice/proof-kit travels with the tree. A shell script because nothing else is sure to be there.
set -eu
cd "$(dirname "$0")/../.."
kit=.sluice/proof-kit
node=node
if [ -f "$kit/node.gz" ]; then
  node="$kit/node"
  [ -x "$node" ] || { gzip -dc "$kit/node.gz" > "$node" && chmod +x "$node"; }
  [ -e node_modules ] || ln -s "$kit/node_modules" node_modules
fi
exec "$node" gpu-backend/proof/main.ts "$@"

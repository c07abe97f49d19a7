#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec standin run --rules "$here/standin.yaml" --receipt claude-code-receipt.json -- claude "$@"

#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# The variable is expanded inside: the shell that runs this script holds no token at all.
exec standin run --rules "$here/standin.yaml" -- \
  sh -c 'curl -sS -H "Authorization: Bearer $GITHUB_TOKEN" https://api.github.com/user'

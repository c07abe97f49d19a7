#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec standin run --rules "$here/standin.yaml" -- git clone "https://github.com/acme/${1:?name a repository of acme}"

#!/bin/bash
# .ci/lab/lab .ci/lab/build-slim.sh SUITE RECIPE: makes localhost/mxlab-slim-SUITE, the base of the container image, as Debian's
# slim images are: the smallest Debian that has apt, without documentation. RECIPE is its label, as in build-image.sh.
set -euo pipefail
suite=$1 recipe=$2
TMPDIR=/dev/shm mmdebstrap --mode=root --variant=minbase \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io --dpkgopt=path-exclude=/usr/share/doc/* --dpkgopt=path-exclude=/usr/share/man/* \
    --dpkgopt=path-exclude=/usr/share/locale/* \
    "$suite" - | podman import -q --change "LABEL recipe=$recipe" - "localhost/mxlab-slim-$suite:latest"

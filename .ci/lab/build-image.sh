#!/bin/bash
# .ci/lab/lab .ci/lab/build-image.sh SUITE RECIPE: makes localhost/mxlab-SUITE from Debian's archive, no container registry;
# RECIPE is its label, by which an image of an older version of this file is known
set -euo pipefail
suite=$1 recipe=$2
TMPDIR=/dev/shm mmdebstrap --mode=root --variant=apt \
  --include=systemd,systemd-sysv,dbus,adduser,python3,python3-apt,ca-certificates,iproute2,procps \
  --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
  --aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
  --dpkgopt=force-unsafe-io --skip=cleanup/apt/lists \
  --customize-hook='chroot "$1" systemctl mask systemd-modules-load.service getty.target console-getty.service systemd-logind.service apt-daily.timer apt-daily-upgrade.timer' \
  --customize-hook='rm -f "$1/usr/sbin/runlevel" "$1/sbin/runlevel"; printf "#!/bin/sh\nsystemctl is-active --quiet multi-user.target && echo N 5 || echo unknown\n" > "$1/usr/local/sbin/runlevel"; chmod 755 "$1/usr/local/sbin/runlevel"' \
  --customize-hook=': > "$1/etc/machine-id"; rm -f "$1/etc/hostname" "$1/etc/resolv.conf"' \
  "$suite" - | podman import -q --change 'CMD ["/lib/systemd/systemd"]' --change 'STOPSIGNAL SIGRTMIN+3' \
  --change "LABEL recipe=$recipe" - "localhost/mxlab-$suite:latest"

#!/bin/sh
# Installs what the cluster tests start themselves: sshd, Slurm, munge. Starts nothing and leaves what is there.
set -eu
missing=""
for pair in sshd:openssh-server slurmctld:slurm-wlm munged:munge ip:iproute2; do
	PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || { echo "install$missing by hand; there is no apt-get here" >&2; exit 1; }
[ "$(id -u)" = 0 ] && as_root="" || as_root="sudo"
$as_root apt-get update -qq
# Runlevel 1: the packages' scripts start no service.
# shellcheck disable=SC2086
$as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing

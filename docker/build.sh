#!/bin/bash
# Builds docker/Dockerfile into an archive without a Docker daemon and without a registry: buildah makes the image, on a base
# that debootstrap makes of Debian's own packages. Needs root; installs buildah and debootstrap when missing.
#     docker/build.sh [ARCHIVE]        default build/image/vramcast.tar; load it with docker load or podman load
#     MIRROR=URL                       the Debian mirror (default: apt's)
#     SOURCE_DATE_EPOCH=SECONDS        the time that every file and the image bear, so that two builds are the same
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../script/common.sh"

archive=$(realpath -m "${1:-$root/build/image/vramcast.tar}")
store=$root/build/image
suite=bookworm
base=localhost/debian:12-slim
image=localhost/vramcast:latest

# No storage driver that needs a kernel module, no network namespace, no daemon.
run_buildah()
{
	buildah --root "$store/storage" --runroot "$store/run" --storage-driver vfs "$@"
}

# apt's sources of the suite here, security fixes among them, as lines for the base.
sources()
{
	apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
		'Created-By: Packages' 'Origin: Debian' | grep " $suite" | sort -u
}

# Debian's slim image drops documentation (but for copyrights) and package caches, and keeps later installs from bringing
# them back.
slim()
{
	local tree=$1
	find "$tree/usr/share/doc" ! -type d ! -name copyright -delete
	rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* "$tree"/var/cache/ldconfig/* "$tree"/var/log/*.log \
		"$tree"/usr/share/{man,locale,info}/*
	printf 'path-exclude /usr/share/%s/*\n' doc man locale info >"$tree/etc/dpkg/dpkg.cfg.d/docker"
	printf 'path-include /usr/share/doc/*/copyright\n' >>"$tree/etc/dpkg/dpkg.cfg.d/docker"
	cat >"$tree/etc/apt/apt.conf.d/docker-clean" <<-'CLEAN'
		DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
		Dir::Cache::pkgcache "";
		Dir::Cache::srcpkgcache "";
	CLEAN
	: >"$tree/etc/machine-id"
}

make_base()
{
	local container mirror lines
	lines=$(sources || true)
	mirror=${MIRROR:-$(printf '%s\n' "$lines" | sed -n "s/^deb \(.*\) $suite main$/\1/p")}
	rm -rf "$store/tree"
	debootstrap --variant=minbase "$suite" "$store/tree" ${mirror:+"$mirror"} >"$store/debootstrap.log" </dev/null ||
		die "debootstrap failed, see $store/debootstrap.log"
	[ -n "${MIRROR:-}" ] || [ -z "$lines" ] || printf '%s\n' "$lines" >"$store/tree/etc/apt/sources.list"
	slim "$store/tree"
	container=$(run_buildah from scratch)
	tar -C "$store/tree" -cf "$store/base.tar" .
	run_buildah add "$container" "$store/base.tar" / >&2
	run_buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
	run_buildah commit --rm "$container" "$base" >&2
	rm -rf "$store/base.tar" "$store/tree"
}

[ "$(id -u)" = 0 ] || die "has to run as root: debootstrap and buildah's chroot need it"
need buildah debootstrap
mkdir -p "$store" "$(dirname "$archive")"
run_buildah inspect --type image "$base" >/dev/null 2>&1 || make_base

# --format docker: OCI's format has no HEALTHCHECK and would drop it.
run_buildah build --isolation chroot --network host --pull-never --format docker --layers=false \
	--build-arg "BASE=$base" ${SOURCE_DATE_EPOCH:+--timestamp "$SOURCE_DATE_EPOCH"} \
	-t "$image" -f "$root/docker/Dockerfile" "$root" </dev/null >&2
rm -f "$archive"
run_buildah push --quiet "$image" "docker-archive:$archive:vramcast:latest" >&2
printf '%s\n' "$archive"

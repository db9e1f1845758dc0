#!/usr/bin/env bash
# Builds the images that Warren runs on, without any container registry.
#
#   images/build.sh pause                  warren/pause      holds a pod's namespaces
#   images/build.sh busybox                warren/busybox    what the examples run
#   images/build.sh rabbitmq               warren/rabbitmq   RabbitMQ with the management plugin, from Debian's packages
#   images/build.sh pause busybox          several of these
#   images/build.sh warren <binary>        warren/warren     the control plane; a dynamic binary takes its libraries along
#
# An image that is there is kept (--force builds it anew); of warren/warren the binary's content decides.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Raised when the recipe of an image changes, so that an upgrade builds it anew.
PAUSE_TAG=1 BUSYBOX_TAG=1 RABBITMQ_TAG=1
force=false
scratch=

fail() {
	echo "images: $*" >&2
	exit 1
}

cleanup() {
	# A chroot that was interrupted may still have /proc mounted; rm must never walk into it.
	[ -z "$scratch" ] || { umount -q "$scratch/root/proc" 2>/dev/null || true; rm -rf --one-file-system "$scratch"; }
}
trap cleanup EXIT
scratch=$(mktemp -d /var/tmp/warren-image.XXXXXX)

present() {
	[ "$force" = false ] && docker image inspect "$1" >/dev/null 2>&1 && echo "$1: is there"
}

# A static program that is position independent makes ldd succeed; libraries it names are what counts.
is_static() { ! { ldd "$1" 2>/dev/null || true; } | grep -q '=>'; }

# copy_libraries <binary> <root>: what a dynamic binary names, and the loader, at the same paths.
copy_libraries() {
	local library
	! ldd "$1" | grep 'not found' >&2 || fail "$1 needs libraries that are not here"
	ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$2$(dirname "$library")"
		cp -L "$library" "$2$library"
	done
}

# import <folder> <image> <docker import options…>: a folder becomes an image of one layer.
import() {
	local root=$1 image=$2
	shift 2
	tar -C "$root" --numeric-owner -c . | docker import "$@" - "$image" >/dev/null
	echo "$image: built"
}

build_pause() {
	present "warren/pause:$PAUSE_TAG" && return
	command -v cc >/dev/null || fail "cc is missing: apt-get install gcc libc6-dev"
	mkdir -p "$scratch/root"
	cc -Os -static -s -o "$scratch/root/pause" "$here/pause.c"
	import "$scratch/root" "warren/pause:$PAUSE_TAG" -c 'ENTRYPOINT ["/pause"]'
}

build_busybox() {
	present "warren/busybox:$BUSYBOX_TAG" && return
	local busybox root=$scratch/root
	busybox=$(command -v busybox) || fail "busybox is missing: apt-get install busybox-static"
	is_static "$busybox" || fail "$busybox is not static: apt-get install busybox-static"
	mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,var/www,home}
	chmod 1777 "$root/tmp"
	cp "$busybox" "$root/bin/busybox"
	for applet in $("$busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
	done
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
	import "$root" "warren/busybox:$BUSYBOX_TAG" -c 'CMD ["sh"]' -c 'ENV PATH=/bin'
}

# The mirror and proxy that this machine's apt uses for its own release.
mirror() {
	local codename=$1 uri
	# shellcheck disable=SC2016 # apt's own variables
	uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
		awk -v codename="$codename" '$2 == codename && $3 == "main" && $4 ~ /Debian|Ubuntu/ { print $1; exit }')
	echo "${uri:-http://deb.debian.org/debian}"
}

build_rabbitmq() {
	local image="warren/rabbitmq:$RABBITMQ_TAG" root=$scratch/root codename proxy=
	present "$image" && return
	command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	[ -z "$proxy" ] || export http_proxy=$proxy
	echo "$image: debootstrap of $codename, then rabbitmq-server (some minutes, once)"
	debootstrap --variant=minbase "$codename" "$root" "$(mirror "$codename")" >"$scratch/log" 2>&1 ||
		{ tail -20 "$scratch/log" >&2; fail "debootstrap failed"; }
	# Installing a package must not start it.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod +x "$root/usr/sbin/policy-rc.d"
	mount -t proc proc "$root/proc"
	DEBIAN_FRONTEND=noninteractive chroot "$root" \
		apt-get install -y -q --no-install-recommends rabbitmq-server >"$scratch/log" 2>&1 ||
		{ tail -20 "$scratch/log" >&2; fail "installing rabbitmq-server failed"; }
	umount "$root/proc"
	rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale} \
		"$root"/usr/sbin/policy-rc.d "$root"/var/lib/rabbitmq/* "$root"/var/lib/rabbitmq/.erlang.cookie
	cp "$here/rabbitmq-entrypoint.sh" "$root/usr/local/bin/rabbitmq-entrypoint"
	echo '[rabbitmq_management].' >"$root/etc/rabbitmq/enabled_plugins"
	import "$root" "$image" -c 'ENTRYPOINT ["/usr/local/bin/rabbitmq-entrypoint"]' \
		-c 'ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
		-c 'EXPOSE 5672 15672'
}

build_warren() {
	local binary=${1:?the binary} root=$scratch/root tag
	[ -x "$binary" ] || fail "$binary is not there"
	# The content names the image, so that a new build is a new image and pods that name it are replaced.
	tag=$(sha256sum "$binary" | cut -c1-12)
	present "warren/warren:$tag" && return
	mkdir -p "$root"/{usr/bin,tmp,etc}
	chmod 1777 "$root/tmp"
	cp "$binary" "$root/usr/bin/warren"
	chmod 755 "$root/usr/bin/warren"
	is_static "$binary" || copy_libraries "$binary" "$root"
	printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
	import "$root" "warren/warren:$tag" -c 'ENTRYPOINT ["/usr/bin/warren"]' -c 'ENV PATH=/usr/bin'
}

case ${1:-} in --force) force=true && shift ;; esac
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }

case ${1:-} in
pause | busybox | rabbitmq)
	for name; do
		case $name in
		pause | busybox | rabbitmq)
			"build_$name"
			rm -rf --one-file-system "$scratch/root"
			;;
		*) usage && exit 2 ;;
		esac
	done
	;;
warren) build_warren "${@:2}" ;;
-h | --help) usage ;;
*) usage && exit 2 ;;
esac

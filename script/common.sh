# What the scripts share: finding the source tree, installing what is missing, configuring and building.
# Sourced, never run. Everything here is safe to call from any directory, again and again, and without a terminal.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say()
{
	printf '%s\n' "$*" >&2
}

die()
{
	say "$(basename "$0"): $*"
	exit 1
}

# Whether what a Debian package provides is here. Looks at the thing itself, so that other ways of installing it count
# too and apt is asked only when something is missing.
have()
{
	case $1 in
	gcc | meson | clang | curl | wrk | buildah | debootstrap | podman | docker-compose | mandoc | zsh | fish | rsync | jq | \
		make | openssl) command -v "$1" >/dev/null ;;
	ninja-build) command -v ninja >/dev/null ;;
	pkg-config) command -v pkg-config >/dev/null ;;
	binutils) command -v nm >/dev/null ;;
	python3) [ -x /usr/bin/python3 ] ;;
	python3-yaml) /usr/bin/python3 -c 'import yaml' 2>/dev/null ;;
	libc6-dev) [ -e /usr/include/stdio.h ] ;;
	libmicrohttpd-dev) pkg-config --exists libmicrohttpd 2>/dev/null ;;
	libjansson-dev) pkg-config --exists jansson 2>/dev/null ;;
	check) pkg-config --exists check 2>/dev/null ;;
	chromium) [ -x /usr/bin/chromium ] ;;
	chromium-driver) [ -x /usr/bin/chromedriver ] ;;
	python3-selenium) /usr/bin/python3 -c 'import selenium' 2>/dev/null ;;
	prometheus) command -v promtool >/dev/null ;;
	python3-requests) /usr/bin/python3 -c 'import requests' 2>/dev/null ;;
	python3-pandas) /usr/bin/python3 -c 'import pandas' 2>/dev/null ;;
	python3-matplotlib) /usr/bin/python3 -c 'import matplotlib' 2>/dev/null ;;
	haproxy | slurmctld | slurmd | runc | iptables) [ -x "/usr/sbin/$1" ] ;;
	netavark | aardvark-dns) [ -x "/usr/lib/podman/$1" ] ;;
	nginx-light) [ -x /usr/sbin/nginx ] ;;
	slurm-client) command -v sbatch >/dev/null ;;
	slurm-wlm-basic-plugins) compgen -G '/usr/lib/*/slurm-wlm/job_submit_lua.so' >/dev/null ;;
	munge) [ -x /usr/sbin/munged ] ;;
	lua-socket) compgen -G '/usr/lib/*/lua/5.1/socket/core.so' >/dev/null ;;
	lua-cjson) compgen -G '/usr/lib/*/lua/5.1/cjson.so' >/dev/null ;;
	kubernetes-client) command -v kubectl >/dev/null ;;
	etcd-server) command -v etcd >/dev/null ;;
	golang-go) command -v go >/dev/null ;;
	golang-github-modern-go-reflect2-dev) [ -d /usr/share/gocode/src/github.com/modern-go/reflect2 ] ;;
	dpkg-dev) command -v dpkg-source >/dev/null ;;
	debhelper) command -v dh >/dev/null ;;
	lintian) command -v lintian >/dev/null ;;
	python3-pil) /usr/bin/python3 -c 'import PIL' 2>/dev/null ;;
	libclang-rt-14-dev) [ -e "$(clang -print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer-$(uname -m).a" ] ;;
	*) die "no test for the package $1" ;;
	esac
}

# need PACKAGE...: installs those that are missing, with apt, as root or through sudo.
need()
{
	local package missing=() as_root=()
	for package in "$@"; do
		have "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	command -v apt-get >/dev/null || die "missing: ${missing[*]} (Debian's names); there is no apt-get to install them"
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || die "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}"
		as_root=(sudo)
	fi
	say "installing: ${missing[*]}"
	as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
	# The lists are absent in a fresh image and stale elsewhere; without a network the old ones may still do.
	"${as_root[@]}" update </dev/null >&2 || say "apt-get update failed, going on with the lists that are there"
	"${as_root[@]}" install --no-install-recommends "${missing[@]}" </dev/null >&2 ||
		die "apt-get could not install: ${missing[*]}"
	for package in "${missing[@]}"; do
		have "$package" || die "$package was installed, but what it should bring is not found"
	done
}

need_build()
{
	need gcc libc6-dev binutils meson ninja-build pkg-config libmicrohttpd-dev libjansson-dev python3 python3-yaml
}

need_tests()
{
	need_build
	need check curl
}

# build FOLDER MESON_OPTION...: configures build/FOLDER once, then compiles what has changed. Two callers take turns.
build()
{
	local folder=$root/build/$1 lock
	shift
	mkdir -p "$folder"
	exec {lock}>"$folder.lock"
	flock "$lock"
	if [ ! -e "$folder/build.ninja" ]; then
		meson setup "$folder" "$root" "$@" </dev/null >&2 {lock}>&- || die "meson could not set up $folder"
	fi
	# Nothing to do is the usual case and no news; what is compiled, and what fails, is shown.
	ninja -C "$folder" --quiet </dev/null >&2 {lock}>&- || die "the build in $folder failed"
	exec {lock}>&-
}

build_release()
{
	need_build
	build release -Dtests=false
	vramcast=$root/build/release/server/vramcast
	[ -x "$vramcast" ] || die "the build left no $vramcast"
}

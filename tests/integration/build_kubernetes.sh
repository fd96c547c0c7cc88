#!/bin/bash
# Builds a real kube-apiserver and kube-scheduler from Debian's source package `kubernetes`: there is no binary package of them.
#     build_kubernetes.sh FOLDER      leaves FOLDER/bin/kube-apiserver and FOLDER/bin/kube-scheduler
# Once, some ten minutes on two cores and 2.5 GB, of which 0.2 GB stay. What apt knows of this machine is left alone: the
# list of source packages lies under FOLDER.
set -euo pipefail

folder=$(realpath -m "${1:?usage: build_kubernetes.sh FOLDER}")
programs=(kube-apiserver kube-scheduler)
reflect2=/usr/share/gocode/src/github.com/modern-go/reflect2
work=$folder/work

built()
{
	local program
	for program in "${programs[@]}"; do
		[ -x "$folder/bin/$program" ] || return 1
	done
}

# The mirror that this machine installs from.
mirror()
{
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Label: Debian' | head -n 1
}

fetch_source()
{
	local apt=(apt-get -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root)
	local from
	from=$(mirror)
	[ -n "$from" ] || { echo "apt knows no mirror of Debian bookworm" >&2; return 1; }
	mkdir -p "$work"/apt/{lists/partial,cache/archives/partial}
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from bookworm main" >"$work/apt/sources.list"
	"${apt[@]}" update
	(cd "$work" && "${apt[@]}" source --download-only kubernetes && dpkg-source -x kubernetes_*.dsc source)
}

# The vendored reflect2 1.0.1 crashes where Go >= 1.18 built it; Debian has 1.0.2 as a package.
replace_reflect2()
{
	local vendored=$work/source/vendor/github.com/modern-go/reflect2
	find "$vendored" -name '*.go' -delete -o -name '*.s' -delete
	cp "$reflect2"/*.go "$reflect2"/*.s "$vendored"
	rm -f "$vendored"/*_test.go
}

compile()
{
	cd "$work/source"
	export GOPATH=$PWD/.go CGO_ENABLED=0 GOFLAGS=-mod=vendor HOME=$work/home
	mkdir -p .go/src/k8s.io "$HOME"
	ln -sfn ../../.. .go/src/k8s.io/kubernetes
	nice -n 10 make WHAT="${programs[*]/#/cmd/}"
}

built && exit
rm -rf "$work"
mkdir -p "$work" "$folder/bin"
echo "building kube-apiserver and kube-scheduler in $folder: ten minutes, once" >&2
{ fetch_source && replace_reflect2 && (compile); } >"$folder/build.log" 2>&1 ||
	{ tail -n 20 "$folder/build.log" >&2; exit 1; }
for program in "${programs[@]}"; do
	install "$work/source/_output/bin/$program" "$folder/bin/$program"
done
chmod -R u+w "$work" && rm -rf "$work"
built

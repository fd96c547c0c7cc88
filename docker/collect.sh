#!/bin/bash
# Makes TREE, into which the program was installed, the root of an image: adds the libraries that the program is linked with, what
# their packages say of themselves (copyright, and the record by which scanners find known holes), and the user.
#     docker/collect.sh TREE
set -euo pipefail

tree=$1
program=$tree/usr/bin/vramcast

# Debian's layout: the loader is looked for in /lib or /lib64, which are links.
mkdir -p "$tree"/usr/lib "$tree"/usr/lib64 "$tree"/var/lib/dpkg/status.d "$tree"/etc
ln -s usr/lib "$tree/lib"
ln -s usr/lib64 "$tree/lib64"

# A line of ldd names the file that is loaded: "NAME => FILE (ADDRESS)", the loader "FILE (ADDRESS)".
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
	cp -L --parents "$library" "$tree"
	# dpkg knows the file by either of the two names of its folder.
	package=$(dpkg-query --search "*/$(basename "$(readlink -f "$library")")" | sed 's/:.*//; q')
	dpkg-query --status "$package" >"$tree/var/lib/dpkg/status.d/$package"
	install -D -m 644 "/usr/share/doc/$package/copyright" "$tree/usr/share/doc/$package/copyright"
done
install -D -m 644 "$(dirname "$0")/../LICENSE" "$tree/usr/share/doc/vramcast/copyright"

printf 'root:x:0:0:root:/:/nonexistent\nvramcast:x:10001:10001::/nonexistent:/nonexistent\n' >"$tree/etc/passwd"
printf 'root:x:0:\nvramcast:x:10001:\n' >"$tree/etc/group"
"$program" --catalog "$tree/usr/share/vramcast" --check

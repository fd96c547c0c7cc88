#!/usr/bin/python3
"""The Debian package: built by dpkg-buildpackage, looked at by lintian, and run as it is installed, in a mount namespace where its /usr
lies over this one's.

    package.py SOURCE VRAMCAST [DEB]    TAP; as root. DEB is a package that script/package has built before
"""
# needs: debhelper dpkg-dev lintian
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
REQUEST = '{"model": "llama-3.2-1b", "method": "lora"}'


def output(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def build():
    """The tests are left out: they are run elsewhere, with every compiler."""
    if len(sys.argv) > 3:
        return pathlib.Path(sys.argv[3]).resolve()
    print("# script/package: dpkg-buildpackage in build/package", flush=True)
    code, told, error = output(SOURCE / "script/package", env={**os.environ, "DEB_BUILD_OPTIONS": "nocheck"})
    if code:
        raise RuntimeError(error[-3000:])
    return pathlib.Path(told.splitlines()[-1])


def installed(tree, *command, **options):
    """Runs a command where the package's /usr lies over the machine's."""
    script = 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && cd / && shift && exec "$@"'
    return output("unshare", "--mount", "sh", "-c", script, "sh", tree, *command, **options)


def cases(package, tree):
    code, told, error = output("lintian", "--allow-root", "--fail-on", "error,warning", package)
    yield "lintian has nothing to say", code == 0 and not told, told + error
    fields = dict(re.findall(r"^ (\w+): (.*)$", output("dpkg-deb", "--info", package)[1], re.MULTILINE))
    version = output(VRAMCAST, "--version")[1].split()[1]
    yield "its version is the program's", fields["Version"].split("-")[0] == version, fields["Version"]
    needs = {need.split()[0] for need in fields["Depends"].split(", ")}
    yield "it depends on its three libraries", needs == {"libc6", "libjansson4", "libmicrohttpd12"}, fields["Depends"]
    output("dpkg-deb", "--extract", package, tree)
    wanted = ["usr/bin/vramcast", "usr/share/vramcast/models.json", "usr/share/vramcast/gpus.json", "usr/share/man/man1/vramcast.1.gz",
              "usr/share/bash-completion/completions/vramcast", "usr/share/zsh/vendor-completions/_vramcast",
              "usr/share/fish/vendor_completions.d/vramcast.fish", "lib/systemd/system/vramcast.service",
              "lib/systemd/system/vramcast.socket", "usr/share/doc/vramcast/copyright"]
    missing = [name for name in wanted if not (tree / name).exists()]
    yield "all of it is where Debian looks", not missing, str(missing)
    output("dpkg-deb", "--control", package, tree / "DEBIAN")
    script = (tree / "DEBIAN/postinst").read_text()
    started = set(re.findall(r"deb-systemd-invoke \$_dh_action '([\w.]+)'", script))
    kept = set(re.findall(r"deb-systemd-helper debian-installed '([\w.]+)'", script))  # enabled only where it was before
    yield "the socket is enabled and started, and not the service", (started, kept) == ({"vramcast.socket"}, {"vramcast.service"}), script
    code, told, error = installed(tree, "/usr/bin/vramcast", "--check")
    yield "the installed program finds its catalogues", code == 0 and "are sound" in told, told + error
    code, told, error = installed(tree, "vramcast", "estimate", "--gpu", "h100", input=REQUEST)
    yield "and answers", code == 0 and json.loads(told)["fits"][0]["verdict"] == "fits", told + error


def main():
    good, number, package = True, 0, build()
    print("# %s, %d KB" % (package.name, package.stat().st_size / 1000))
    with tempfile.TemporaryDirectory(prefix="vramcast-package-") as folder:
        for number, (name, right, told) in enumerate(cases(package, pathlib.Path(folder)), 1):
            good = good and right
            print("%sok %d - %s" % ("" if right else "not ", number, name), flush=True)
            for line in [] if right else told.splitlines():
                print("#   " + line)
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()

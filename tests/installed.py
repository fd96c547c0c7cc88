#!/usr/bin/python3
"""What `meson install` brings, in a tree of its own: that all of it is there, runs, and says of the options what --help says.

    installed.py SOURCE BUILD       TAP; BUILD is a configured build folder. What needs a shell or a tool that is not here is skipped
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

OPTION = re.compile(r"^  (--[a-z-]+)(?: (\S+))?  ", re.MULTILINE)
REQUEST = '{"model": "llama-3.2-1b", "method": "lora"}'
CARDS = ("a100-pcie-40gb", "h100-sxm5-80gb")
HOSTILE = "$(touch pwned)"


class Skip(Exception):
    """Why a case cannot be run here."""


def output(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


class Tree:
    """A prefix into which the build was installed with DESTDIR."""

    def __init__(self, source, build, folder):
        self.source, self.root = source, pathlib.Path(folder)
        options = json.loads(output(["meson", "introspect", build, "--buildoptions"])[1])
        self.values = {row["name"]: row["value"] for row in options}
        code, _, told = output(["meson", "install", "-C", build, "--no-rebuild", "--quiet"],
                               env={**os.environ, "DESTDIR": str(folder)})
        if code:
            raise RuntimeError("meson install: " + told)
        self.prefix = self.root / self.values["prefix"].lstrip("/")
        self.data = self.prefix / self.values["datadir"]
        self.program = self.prefix / self.values["bindir"] / "vramcast"
        self.manual = self.prefix / self.values["mandir"] / "man1/vramcast.1"
        self.help = output([self.program, "--help"])[1]
        self.options = dict(OPTION.findall(self.help))


# ---- what is there

def files_are_those(tree):
    """Every file, by what it is: nothing is missing and nothing comes along."""
    units = tree.values["systemdsystemunitdir"] or "lib/systemd/system"
    zsh = tree.values["zsh_completions"] or "share/zsh/site-functions"
    wanted = {"bin/vramcast", "share/vramcast/models.json", "share/vramcast/gpus.json", "share/man/man1/vramcast.1",
              "share/bash-completion/completions/vramcast", "share/fish/vendor_completions.d/vramcast.fish",
              zsh + "/_vramcast", units + "/vramcast.service", units + "/vramcast.socket"}
    documents = tree.data / "doc/vramcast"
    found = {path for path in tree.prefix.rglob("*") if path.is_file()}
    others = {str(path.relative_to(tree.prefix)) for path in found if documents not in path.parents}
    assert others == wanted, sorted(others ^ wanted)
    told = {str(path.relative_to(documents)) for path in found if documents in path.parents}
    ours = {path.name for path in tree.source.glob("*") if path.name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md")}
    ours |= {str(path.relative_to(tree.source)) for path in (tree.source / "docs").rglob("*") if path.is_file()}
    ours |= {"examples/" + str(path.relative_to(tree.source / "integrations"))
             for path in (tree.source / "integrations").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert told == ours | {"examples/docker/compose.yaml"}, sorted(told ^ (ours | {"examples/docker/compose.yaml"}))


def nothing_is_left_to_fill_in(tree):
    """No @variable@ of a template, no path of the place where it was built or staged."""
    for path in tree.prefix.rglob("*"):
        if path.is_file() and path.name != "vramcast" and path.suffix in (".1", ".fish", ".service", ".socket", "") \
                or path.parent.name == "completions":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"@[a-z]+@", text) and str(tree.root) not in text, path


def the_installed_program_answers(tree):
    code, told, error = output([tree.program, "estimate", "--gpu", "h100", "--catalog", tree.data / "vramcast"],
                               input=REQUEST, cwd="/")
    assert code == 0 and json.loads(told)["fits"][0]["verdict"] == "fits", (code, told, error)
    code, told, error = output([tree.program, "--catalog", tree.data / "vramcast", "--check"])
    assert code == 0 and "are sound" in told, (code, told, error)


def the_installed_catalogues_are_looked_for(tree):
    place = "%s/%s/vramcast" % (tree.values["prefix"], tree.values["datadir"])
    assert place.encode() in tree.program.read_bytes(), place
    assert place in tree.manual.read_text(encoding="utf-8"), place


def the_unit_starts_the_installed_program(tree):
    units = [path for path in tree.prefix.rglob("vramcast.service")]
    started = re.search(r"^ExecStart=(\S+)", units[0].read_text(encoding="utf-8"), re.MULTILINE).group(1)
    assert tree.root / started.lstrip("/") == tree.program, started


def the_versions_agree(tree):
    version = output([tree.program, "--version"])[1].split()[1]
    label = re.search(r'image\.version="(.*?)"', (tree.source / "docker/Dockerfile").read_text(encoding="utf-8")).group(1)
    assert label == version, (label, version)


# ---- the options: --help is what the others are held against

def help_lists_the_options_that_are_read(tree):
    rows = re.findall(r'^\t\{ "(--[a-z-]+)", \.kind', (tree.source / "config/settings.c").read_text(), re.MULTILINE)
    assert len(rows) > 10 and rows == list(tree.options), (rows, list(tree.options))
    for name, value in tree.options.items():
        code, _, told = output([tree.program, name] if value else [tree.program, name + "=1"])
        assert code == 2 and name in told, (name, code, told)


def the_manual_tells_the_options(tree):
    text = tree.manual.read_text(encoding="utf-8")
    told = re.findall(r"^\.It Fl -([a-z-]+)(?: Ar (\S+))?$", text, re.MULTILINE)
    assert {"--" + name: value for name, value in told} == tree.options, told
    names = set(re.findall(r"\bVRAMCAST_[A-Z_]+", (tree.source / "server/serve.c").read_text()))
    assert set(re.findall(r"^\.It Ev (VRAMCAST_\w+)", text, re.MULTILINE)) == names, names
    read = {name for path in (tree.source / "server").glob("*.c") for name in re.findall(r'getenv\("(\w+)"\)', path.read_text())}
    assert read <= set(re.findall(r"\w+", text)), read


def the_manual_tells_the_defaults(tree):
    """The numbers that --help has in parentheses."""
    text = tree.manual.read_text(encoding="utf-8")
    for name, number in re.findall(r"^  (--[a-z-]+).*\((\d{3,}|127[\d.:]+)\)", tree.help, re.MULTILINE):
        entry = text.partition(".It Fl -" + name[2:])[2].partition(".It")[0]
        assert number in entry, (name, number)


def the_manual_is_sound(tree):
    if shutil.which("mandoc"):
        _, told, _ = output(["mandoc", "-Tlint", "-Wstyle", tree.manual])
        told = [line for line in told.splitlines() if "outdated mandoc.db" not in line]
        assert not told, told
    elif shutil.which("man"):
        _, _, told = output(["man", "--warnings", "-l", tree.manual], env={**os.environ, "MANPAGER": "cat"})
        assert not told, told
    else:
        raise Skip("neither mandoc nor man is here")


def the_completions_tell_the_options(tree):
    words = {"bash": (r"(?<![\w-])--[a-z-]+", ""), "fish": (r"(?<= -l )[a-z-]+", "--"), "zsh": (r"^\t'\*?(--[a-z-]+)", "")}
    for path, (pattern, dashes) in zip(completions(tree), words.values()):
        text = re.sub(r"^\s*#.*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found = {dashes + name for name in re.findall(pattern, text, re.MULTILINE)}
        assert found == set(tree.options), (path, found ^ set(tree.options))
    formats = re.search(r"--format NAME\s+estimate: (.*?) \(", tree.help).group(1).replace(" or ", ", ").split(", ")
    for path in completions(tree):
        assert " ".join(formats) in path.read_text(encoding="utf-8"), (path, formats)


def completions(tree):
    return [next(tree.prefix.rglob(name)) for name in ("bash-completion/completions/vramcast", "vramcast.fish", "_vramcast")]


# ---- the shells

def bash_words(tree, *words):
    """What bash offers for the last of the words."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vramcast; printf "%s\\n" "${COMPREPLY[@]}"'
    code, told, error = output(["bash", "-c", script, "bash", completions(tree)[0], "vramcast", *words], cwd=tree.root)
    assert code == 0 and not error, error
    return told.split()


def bash_completes(tree):
    catalogue = str(tree.data / "vramcast")
    assert bash_words(tree, "") == list(tree.options) + ["estimate"]
    assert bash_words(tree, "--log-") == ["--log-format"]
    assert bash_words(tree, "estimate", "--format", "t") == ["table"] == bash_words(tree, "--format", "=", "t")
    assert bash_words(tree, "--log-format", "=") == ["text", "json"]
    assert bash_words(tree, "--catalog", catalogue, "--gpu", "a100-pcie-4") == [CARDS[0]]
    assert set(CARDS) <= set(bash_words(tree, "--catalog", catalogue, "--gpu", ""))
    (tree.root / "run.json").write_text(REQUEST)
    assert bash_words(tree, "estimate", "run") == ["run.json"]
    assert bash_words(tree, "--threads", "") == []
    bash_words(tree, "--catalog", HOSTILE, "--gpu", HOSTILE)
    bash_words(tree, "estimate", HOSTILE)
    assert not (tree.root / "pwned").exists()


def fish_completes(tree):
    if not shutil.which("fish"):
        raise Skip("fish is not here")
    place = "%s/%s" % (tree.values["prefix"], tree.values["datadir"])
    text = completions(tree)[1].read_text(encoding="utf-8").replace(place, str(tree.data))

    def words(line):
        code, told, error = output(["fish", "--no-config", "-c", text + "\ncomplete -C '%s'" % line],
                                   env={**os.environ, "HOME": str(tree.root)})
        assert code == 0 and not error, error
        return [word.split("\t")[0] for word in told.splitlines()]

    assert set(tree.options) <= set(words("vramcast --")), words("vramcast --")
    assert words("vramcast --log-format ") == ["json", "text"]
    assert words("vramcast estimate --gpu a100-pcie-4") == [CARDS[0]]
    assert "estimate" in words("vramcast e")


def zsh_completes(tree):
    if not shutil.which("zsh"):
        raise Skip("zsh is not here")
    folder, place = tree.root / "zsh", "%s/%s" % (tree.values["prefix"], tree.values["datadir"])
    folder.mkdir()
    (folder / "_vramcast").write_text(completions(tree)[2].read_text(encoding="utf-8").replace(place, str(tree.data)))

    def words(line):
        with tempfile.TemporaryDirectory() as scratch:
            code, told, error = output(["zsh", "-f", pathlib.Path(__file__).parent / "complete.zsh", folder, line],
                                       env={**os.environ, "TMPDIR": scratch})
        assert code == 0 and not error, error
        return told.splitlines()

    assert set(words("vramcast --")) == set(tree.options), words("vramcast --")
    assert words("vramcast --log-format ") == ["json", "text"] and words("vramcast --log-format=t") == ["text"]
    assert words("vramcast estimate --gpu a100-pcie-4") == [CARDS[0]]
    assert words("vramcast e") == ["estimate"]


CASES = [files_are_those, nothing_is_left_to_fill_in, the_installed_program_answers, the_installed_catalogues_are_looked_for,
         the_unit_starts_the_installed_program, the_versions_agree, help_lists_the_options_that_are_read, the_manual_tells_the_options,
         the_manual_tells_the_defaults, the_manual_is_sound, the_completions_tell_the_options, bash_completes, fish_completes,
         zsh_completes]


def main(source, build):
    failed = 0
    print("1..%d" % len(CASES))
    with tempfile.TemporaryDirectory(prefix="vramcast-installed-") as folder:
        tree = Tree(pathlib.Path(source), build, folder)
        for number, case in enumerate(CASES, 1):
            name = case.__name__.replace("_", " ")
            try:
                case(tree)
            except Skip as reason:
                print("ok %d - %s # SKIP %s" % (number, name, reason))
            except Exception as error:  # one failure must not hide the others
                failed += 1
                print("not ok %d - %s\n# %s: %s" % (number, name, type(error).__name__, error))
            else:
                print("ok %d - %s" % (number, name))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

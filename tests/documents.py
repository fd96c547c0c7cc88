#!/usr/bin/python3
"""The documents by what they say to do: every command is run, or is in a list with the reason why not here; what a command is said
to print it prints; JSON and Python are that; links lead somewhere; files that are named are there.

    documents.py SOURCE VRAMCAST [--slow]       TAP; starts VRAMCAST on a free port

Commands stand in blocks of "sh" (they have to end with 0), of "console" ("$ " before the command, below it what it prints; a line
"..." stands for any), and in the text between single backquotes. A document's commands share a folder, which looks like the source
tree and has a request, run.json. --slow runs what builds a release too (script/integration documents).
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap

import yaml

import drift
import served

HERE = "127.0.0.1:8080"
LANGUAGES = {"sh", "console", "json", "yaml", "python", "text", "nginx", "c", "lua"}
# What makes code in the text a command.
WORDS = re.compile(r"(?:curl|vramcast|script/\w+|docker/\w+\.sh|(?:docker|podman|docker-compose|kubectl|meson|systemctl|promtool|sbatch)(?= ))(?![\w/.])")
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{2,}\b(?![_=:])|\{\w+\}")

# Commands that are not run here, by their beginnings, and what does it instead. One that no document has is a fault.
ELSEWHERE = {
    "script/test": "it is what runs this",
    ".ci/run": "it is what runs this, in four builds",
    "script/integration": "a test of its own; that there is such a kind is tested",
    "script/fuzz": "runs for minutes; tests/fuzz/ replays its inputs with every change",
    "script/oom": "runs for minutes; tests/oom.py has a part of it",
    "script/torture": "runs for minutes; tests/torture.py",
    "script/bench": "measures a machine that has nothing else to do; tests/bench.c is built with every change",
    "script/package": "script/integration package",
    "docker/build.sh": "script/integration container",
    "docker build": "needs Docker's daemon; script/integration container builds the same file",
    "docker compose": "needs Docker's daemon; script/integration container starts the same file by docker-compose",
    "docker load": "needs Docker's daemon; script/integration container loads the archive by podman",
    "podman load": "script/integration container",
    "meson test": "it is what runs this",
    "meson": "tests/installed.py installs into a folder of its own",
    "systemctl": "needs a running systemd; tests/life.py plays it, script/unit checks the units",
    "kubectl": "script/integration kubernetes runs the commands of this page",
    "integrations/kubernetes/certificate.sh": "script/integration kubernetes",
    "sbatch": "script/integration slurm submits jobs",
    "promtool": "script/integration prometheus",
    "grafana-cli": "Grafana is not in Debian",
    "cp -r integrations/grafana/": "writes to Grafana's folders; tests/dashboards.py asks its queries",
    "install -D -m 644 integrations/grafana/": "writes to Grafana's folders; tests/dashboards.py asks its queries",
}
# Commands that build the release first.
SLOW = ("script/server", "script/accuracy", "script/timeline", "script/unit")
SERVES = re.compile(r"^(script/server|vramcast)(?! estimate)(?!.*--(help|check|version|healthcheck))")


class Document:
    """Blocks as (line, language, text), and the text around them."""

    def __init__(self, name, text):
        self.name, self.blocks, self.faults, prose, block = name, [], [], [], None
        for number, line in enumerate(text.split("\n"), 1):
            fence = re.match(r"^ *```(.*)$", line)
            if block is None and fence:
                block = (number, fence.group(1).strip(), [])
            elif block is None:
                prose.append(line)
            elif fence and not fence.group(1):
                self.blocks.append((block[0], block[1], textwrap.dedent("\n".join(block[2]))))
                prose.append("")
                block = None
            else:
                block[2].append(line)
        self.prose = "\n".join(prose)
        if block:
            self.faults.append("line %d: a block does not end" % block[0])
        self.faults += ["line %d: a block of '%s', which is none of the languages" % (line, language)
                        for line, language, _ in self.blocks if language not in LANGUAGES]
        self.faults += ["an indented block, which nobody runs: " + line.strip() for line in re.findall(r"(?<=\n\n) {4,}\S.*", self.prose)]

    def spans(self):
        """Code in the text, tables and lists among it, on one line."""
        return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]

    def commands(self):
        """(command, what it prints or None)"""
        for _, language, text in self.blocks:
            if language == "sh":
                yield from ((command, None) for command in split(text))
            elif language == "console":
                yield from sessions(text)
        for span in self.spans():
            named = WORDS.match(span) and span != "vramcast estimate" and (" " in span or "/" in span)
            if named and not PLACEHOLDER.search(re.sub(r"'[^']*'", "", span)):
                yield span, None


def split(text):
    """The commands of a script: lines are added up until the shell takes them for whole."""
    lines = []
    for line in text.split("\n"):
        lines.append(line)
        whole = "\n".join(lines)
        if whole.strip() and not whole.endswith("\\"):
            told = subprocess.run(["bash", "-n", "-c", whole], capture_output=True, text=True, check=False)
            if not told.stderr and not told.returncode:
                if not all(row.lstrip().startswith("#") or not row.strip() for row in lines):
                    yield whole.strip("\n")
                lines = []
    if "".join(lines).strip():
        yield "\n".join(lines)


def sessions(text):
    """What stands after "$ ", lines that it goes on over among it, and what is shown below."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        count = next((n for n in range(1, len(lines) + 1) if len(list(split("\n".join(lines[:n])))) == 1
                      and is_whole("\n".join(lines[:n]))), len(lines))
        yield "\n".join(lines[:count]), "\n".join(lines[count:])


def is_whole(text):
    told = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return not told.returncode and not told.stderr and not text.endswith("\\")


def bare(command):
    """The command without comments above it or behind it."""
    lines = [line for line in command.split("\n") if not line.lstrip().startswith("#")]
    return re.sub(r"\s+#\s.*$", "", lines[0].strip()) if lines else ""


class Place:
    """The folder where a document's commands are run."""

    def __init__(self, source, vramcast, port, folder):
        self.source, self.port, self.folder = source, port, pathlib.Path(folder)
        programs = self.folder / ".programs"
        programs.mkdir()
        (programs / "vramcast").symlink_to(pathlib.Path(vramcast).resolve())
        for entry in source.iterdir():
            if not entry.name.startswith((".", "build")):
                (self.folder / entry.name).symlink_to(entry)
        (self.folder / "run.json").write_text('{"model": "llama-3.2-1b", "method": "lora"}')
        self.environment = {**os.environ, "PATH": "%s:%s" % (programs, os.environ["PATH"]), "LC_ALL": "C.UTF-8",
                            "PYTHONPATH": str(source / "integrations/notebook"), "PYTHONDONTWRITEBYTECODE": "1",
                            "MPLBACKEND": "agg", "VRAMCAST_URL": "http://127.0.0.1:%d" % port}

    def here(self, text):
        return text.replace(HERE, "127.0.0.1:%d" % self.port)

    def run(self, command, where=None, strict=True):
        script = 'curl() { command curl -sS --fail-with-body "$@"; }\n' + self.here(command)
        return subprocess.run(["bash", *(["-e"] if strict else []), "-o", "pipefail", "-c", script], cwd=where or self.folder, env=self.environment,
                              capture_output=True, text=True, check=False, timeout=900, stdin=subprocess.DEVNULL)


def reason_elsewhere(words, slow):
    """Why a command is not run here, or None."""
    reasons = [reason for name, reason in ELSEWHERE.items() if words.startswith(name)]
    return reasons[0] if reasons else "script/integration documents" if words.startswith(SLOW) and not slow else None


def command_faults(place, command, shown, slow):
    """What is wrong with a command of a document."""
    words = bare(command)
    if reason_elsewhere(words, slow):
        return kind_faults(place.source, words)
    is_slow = words.startswith(SLOW)
    if SERVES.match(words):
        return serve_faults(place, words)
    if is_slow and "-o " in words:
        words = command = re.sub(r"-o \S+", "-o %s/drawn.svg" % place.folder, words)
    done = place.run(command, place.source if is_slow else None, shown is None)
    if done.returncode and shown is None:
        return ["%s: ended with %d: %.300s" % (words, done.returncode, done.stdout + done.stderr)]
    return [] if shown is None else shown_faults(words, place.here(shown), done.stdout + done.stderr)


def shown_faults(words, shown, printed):
    pattern = ".*".join(re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE))
    if re.fullmatch(r"\s*" + pattern + r"\s*", printed, re.DOTALL):
        return []
    return ["%s: shown\n%s\nprinted\n%s" % (words, shown, printed)]


def kind_faults(source, words):
    """Of a script that is not run: it is there, and so is the kind of test."""
    script, _, rest = words.partition(" ")
    if "/" in script and not os.access(source / script, os.X_OK) and script.startswith(("script/", "docker/")):
        return ["there is no " + script]
    kinds = re.match(r"[a-z|]+", rest) if script == "script/integration" else None
    return ["script/integration has no " + kind for kind in (kinds.group(0).split("|") if kinds else [])
            if not (source / "tests/integration" / (kind + ".py")).exists()]


def serve_faults(place, words):
    """It says where it listens, and ends with 0 on SIGTERM. Where: at a free port."""
    words = re.sub(r"--listen[ =](\S+):\d+", r"--listen \1:0", words)
    words += "" if "--listen" in words else " --listen 127.0.0.1:0"
    folder = place.source if words.startswith("script/") else place.folder
    process = subprocess.Popen(["bash", "-c", "exec " + words], cwd=folder, env=place.environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    told = []
    for line in process.stdout:
        told.append(line)
        if "listening on" in line:
            process.send_signal(signal.SIGTERM)
    process.stdout.close()
    code = process.wait(timeout=60)
    return [] if code == 0 and "listening on" in "".join(told) else ["%s: ended with %d: %.300s" % (words, code, "".join(told))]


def python_faults(place, text):
    """A cell that ends with 0; one that needs a package that is not here has to be Python at least."""
    compile(text, "cell", "exec")
    modules = re.findall(r"^(?:import|from) ([\w, ]+?)(?: import.*)?$", text, re.MULTILINE)
    names = {name.strip() for line in modules for name in line.split(",")}
    known = "import importlib.util, sys; sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))"
    if subprocess.run(["/usr/bin/python3", "-c", known, *names], env=place.environment, check=False).returncode:
        return []
    done = subprocess.run(["/usr/bin/python3", "-c", place.here(text)], cwd=place.folder, env=place.environment, capture_output=True,
                          text=True, check=False, timeout=300)
    return [done.stderr] if done.returncode else []


def block_faults(place, document):
    """Of the blocks that are no commands."""
    lines, cells = [], []
    for number, language, text in document.blocks:
        try:
            if language == "json":
                json.loads(text)
            elif language == "yaml":
                yaml.safe_load(text)
            elif language == "python":  # a document's cells go on from each other, as a notebook's
                cells.append(text)
                lines += ["line %d: %s" % (number, line) for line in python_faults(place, "\n".join(cells))]
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            lines.append("line %d: %s" % (number, error))
    return lines


# ---- links and names

def anchors(text):
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def link_faults(source, document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.prose):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", path):
            continue
        file = (source / document.name).parent / path if path else source / document.name
        if not file.exists():
            yield "no file " + target
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield "no heading " + target


FOLDERS = "config|docker|docs|estimator|integrations|man|openapi|packaging|script|server|systemd|tests|completions"


def name_faults(source, document):
    """Files and folders of the project that are named and not there; * stands for a name."""
    for span in document.spans():
        if re.fullmatch(r"(?:%s)/[\w./*-]*" % FOLDERS, span) and not list(source.glob(span.rstrip("/"))):
            yield "there is no " + span


def documents(source):
    names = [path.relative_to(source) for path in [*source.glob("*.md"), *(source / "docs").glob("*.md"), source / "tests/truth/README.md"]]
    return [Document(str(name), (source / name).read_text(encoding="utf-8")) for name in sorted(names)]


def document_cases(source, vramcast, port, document, slow):
    with tempfile.TemporaryDirectory(prefix="vramcast-documents-") as folder:
        place = Place(source, vramcast, port, folder)
        yield "%s is made of what is tested" % document.name, document.faults
        yield "%s: links and names lead somewhere" % document.name, \
            list(link_faults(source, document)) + list(name_faults(source, document))
        yield "%s: JSON, YAML and Python are that" % document.name, block_faults(place, document)
        for command, shown in document.commands():
            lines, reason = command_faults(place, command, shown, slow), reason_elsewhere(bare(command), slow)
            name = "%s: %s" % (document.name, bare(command)[:100].replace("#", "no."))
            yield name + (" # SKIP " + reason if reason and not lines else ""), lines


def index_faults(found):
    """Documents that the index does not lead to."""
    index = next(document for document in found if document.name == "docs/README.md")
    linked = set(re.findall(r"\]\(([\w.-]+\.md)", index.prose))
    return ["docs/%s is not in docs/README.md" % name for name in
            sorted({pathlib.Path(document.name).name for document in found if document.name.startswith("docs/")} - linked - {"README.md"})]


def stale_exceptions(found):
    commands = [bare(command) for document in found for command, _ in document.commands()]
    return ["no document has %s" % name for name in (*ELSEWHERE, *SLOW) if not any(words.startswith(name) for words in commands)]


BROKEN = """# A

```
curl nowhere
```

    script/test

See [there](nowhere.md), [here](#b) and `tests/nothing.py`; `script/integration nothing`.

```json
{"a": }
```

```sh
curl 127.0.0.1:8080/nothing
```

```console
$ vramcast --version
vramcast 9
```
"""


def noticed_cases(source, vramcast, port):
    document = Document("docs/broken.md", BROKEN)
    yield "noticed: a block without a language, an indented one", [] if len(document.faults) == 2 else document.faults
    told = list(link_faults(source, Document("README.md", BROKEN))) + list(name_faults(source, document))
    yield "noticed: links and names that lead nowhere", [] if len(told) == 3 else told
    with tempfile.TemporaryDirectory() as folder:
        place = Place(source, vramcast, port, folder)
        told = block_faults(place, document)
        yield "noticed: what is no JSON", [] if len(told) == 1 else told
        told = [command_faults(place, command, shown, False) for command, shown in document.commands()]
        yield "noticed: a command that fails, an answer that is another, a kind that is not", [] if len(told) == 3 and all(told) else [str(told)]
    yield "noticed: an exception that nothing needs", [] if len(stale_exceptions([document])) > 10 else ["unnoticed"]


def main(source, vramcast, *options):
    source = pathlib.Path(source).resolve()
    if not shutil.which("curl"):
        print("1..0 # SKIP curl is not here")
        return 0
    found, slow = documents(source), "--slow" in options
    with served.service(source, vramcast) as port:
        kinds = [document_cases(source, vramcast, port, document, slow) for document in found]
        kinds += [[("every document is in the index", index_faults(found)),
                   ("every exception is needed", stale_exceptions(found))], noticed_cases(source, vramcast, port)]
        return 0 if drift.report([case for cases in kinds for case in cases]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

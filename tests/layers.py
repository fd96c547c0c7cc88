#!/usr/bin/python3
"""The layer rule, estimator <- config <- server: who may include whom, who may name MHD_, what the estimator may call.

    layers.py SOURCE ARCHIVE        SOURCE: root of the tree; ARCHIVE: the estimator's libestimator.a. Prints TAP.

The headers of every library lie in /usr/include, so the build itself would let any layer use any of them. The last
cases feed the rule trees that break it: each must be refused.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

C_HEADERS = {"assert.h", "ctype.h", "errno.h", "float.h", "inttypes.h", "limits.h", "math.h", "stdalign.h", "stdarg.h",
             "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h", "string.h", "strings.h"}
# Layer -> (prefixes of our own headers, other headers; None: any)
MAY_INCLUDE = {
    "estimator": (("estimator/",), C_HEADERS),
    "config": (("estimator/", "config/"), C_HEADERS | {"jansson.h", "sys/stat.h", "unistd.h", "fcntl.h"}),
    "server": (("estimator/", "config/", "server/"), None),
}
MHD_FILES_MAX = 3

# What the estimator's archive may ask of others: libm, memory and strings, formatting into a buffer, assert. No malloc,
# so no qsort, no file, no clock. __name_chk, the hardened form, counts as name.
MAY_CALL = {
    "memcpy", "memmove", "memset", "memcmp", "strlen", "strnlen", "strcmp", "strncmp", "strchr", "strrchr", "strstr",
    "strcasecmp", "strncasecmp", "bcmp",
    "snprintf", "vsnprintf", "bsearch", "abort", "__assert_fail", "__stack_chk_fail",
    "ceil", "floor", "round", "trunc", "fmod", "fmin", "fmax", "fabs", "sqrt", "cbrt", "pow", "exp", "exp2", "log",
    "log2", "log10", "lround", "llround", "ldexp", "frexp", "_GLOBAL_OFFSET_TABLE_",
}
INSTRUMENTED = ("__asan_", "__ubsan_", "__tsan_", "__sanitizer_", "__sancov_", "__gcov_")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def sources(root, layer):
    return sorted(path for path in (root / layer).rglob("*") if path.suffix in (".c", ".h", ".S"))


def include_faults(root):
    """One line for every #include that points back, leaves the layer's list, or does not start at the root."""
    faults = []
    for layer, (own, others) in MAY_INCLUDE.items():
        for path in sources(root, layer):
            for mark, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
                allowed = name.startswith(own) if mark == '"' else others is None or name in others
                if not allowed:
                    faults.append("%s includes %s%s" % (path.relative_to(root), mark, name))
    return faults


def names_mhd(path):
    """Whether the code, comments aside, names anything of libmicrohttpd."""
    code = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.search(r"\bMHD_|<microhttpd", code)


def mhd_faults(root):
    """The files that name MHD_ beyond server/, or beyond two there; a .c and its .h are one."""
    naming = {layer: [path.relative_to(root).with_suffix("") for path in sources(root, layer) if names_mhd(path)]
              for layer in MAY_INCLUDE}
    faults = ["%s names MHD_" % path for layer in ("estimator", "config") for path in naming[layer]]
    if len(set(naming["server"])) > MHD_FILES_MAX:
        faults.append("more than %d files name MHD_: %s" % (MHD_FILES_MAX, sorted(map(str, set(naming["server"])))))
    return faults


def symbols(archive):
    """Every symbol of the archive as (name, class, section), as nm has them: class U is undefined."""
    listing = subprocess.run(["nm", "--format=sysv", archive], check=True, capture_output=True, text=True).stdout
    rows = [[column.strip() for column in line.split("|")] for line in listing.splitlines()]
    return [(row[0], row[2], row[6]) for row in rows if len(row) == 7 and row[2] != "Class"]


def call_faults(rows):
    """What the archive needs from others and may not call."""
    defined = {name for name, kind, _ in rows if kind not in "Uwv"}
    foreign = {name for name, kind, _ in rows if kind in "Uwv"} - defined
    return sorted(name for name in foreign if re.sub(r"^__(\w+)_chk$", r"\1", name) not in MAY_CALL
                  and not name.startswith(INSTRUMENTED))


def variable_faults(rows):
    """Variables that can change: in .data or .bss (tables of pointers lie in .data.rel.ro), sanitizers' own aside."""
    return sorted(name for name, kind, section in rows if kind not in "Uwv"
                  and re.match(r"^(\.t?data|\.t?bss|\*COM\*)(?!\.rel\.ro)", section)
                  and not re.match(r"^(__\w*(asan|ubsan|tsan|odr)|\.?L\w+|_GLOBAL_|\.data|\.bss)", name))


def bad_symbols():
    return [
        ("the estimator calls malloc", call_faults([("malloc", "U", "*UND*")])),
        ("the estimator prints", call_faults([("__printf_chk", "U", "*UND*")])),
        ("the estimator keeps a counter", variable_faults([("calls", "b", ".bss")])),
        ("the estimator keeps a counter a thread", variable_faults([("calls", "B", ".tbss.calls")])),
    ]


def bad_trees():
    """(name, file, text, function that must refuse it)"""
    return [
        ("estimator includes jansson", "estimator/a.c", "#include <jansson.h>\n", include_faults),
        ("estimator includes config", "estimator/a.h", '#include "config/config.h"\n', include_faults),
        ("estimator includes a header of POSIX", "estimator/a.c", "#  include <unistd.h>\n", include_faults),
        ("config includes server", "config/a.c", '#include "server/http.h"\n', include_faults),
        ("config includes microhttpd", "config/a.c", "#include <microhttpd.h>\n", include_faults),
        ("a path that does not start at the root", "server/d.c", '#include "http.h"\n', include_faults),
        ("config names MHD_", "config/a.c", "int x = MHD_YES;\n", mhd_faults),
        ("a file more names MHD_", "server/c.c", "int x = MHD_YES;\n", mhd_faults),
    ]


def refuses(name, path, text, rule):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for layer in MAY_INCLUDE:
            (root / layer).mkdir()
        for sound in ("server/a.c", "server/a.h", "server/b.c", "server/e.c"):
            (root / sound).write_text("#include <microhttpd.h>\nint y = MHD_NO;\n", encoding="utf-8")
        (root / "estimator/b.c").write_text('#include <math.h>\n#include "estimator/a.h"\n', encoding="utf-8")
        if rule(root):
            return ["the sound tree is refused: %s" % rule(root)]
        (root / path).write_text(text, encoding="utf-8")
        return [] if rule(root) else ["%s: was let through" % name]


def main(source, archive):
    root, rows = pathlib.Path(source), symbols(archive)
    counts = [len(sources(root, layer)) for layer in MAY_INCLUDE]
    cases = [
        ("every layer has sources", [] if all(counts) else ["files per layer: %s" % counts]),
        ("the archive has symbols", [] if rows else ["none in %s" % archive]),
        ("includes point from server to config to estimator only", include_faults(root)),
        ("MHD_ is named in at most %d files, of server/" % MHD_FILES_MAX, mhd_faults(root)),
        ("the estimator calls libm, string functions and nothing else", call_faults(rows)),
        ("the estimator has no variable that changes", variable_faults(rows)),
    ]
    cases += [("refused: " + name, [] if faults else ["was let through"]) for name, faults in bad_symbols()]
    cases += [("refused: " + case[0], refuses(*case)) for case in bad_trees()]

    print("1..%d" % len(cases))
    for number, (name, faults) in enumerate(cases, 1):
        print("%s %d - %s" % ("not ok" if faults else "ok", number, name))
        for fault in faults:
            print("# %s" % fault)
    return 1 if any(faults for _, faults in cases) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

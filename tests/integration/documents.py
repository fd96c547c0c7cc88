#!/usr/bin/python3
"""The documents by what they say to do, with the commands that build a release, and with the packages that cells of notebooks need.

    documents.py SOURCE VRAMCAST    TAP; a command that is run nowhere is marked so, with the reason
"""
# needs: curl python3-pandas python3-matplotlib python3-requests
import pathlib
import runpy
import sys

if __name__ == "__main__":
    program = pathlib.Path(sys.argv[1]) / "tests/documents.py"
    sys.path[0] = str(program.parent)
    sys.argv = [str(program), *sys.argv[1:3], "--slow"]
    runpy.run_path(str(program), run_name="__main__")

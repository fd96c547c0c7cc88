#!/usr/bin/python3
"""What `meson install` brings, with the shells and tools that tests/installed.py does without where they are missing.

    install.py SOURCE VRAMCAST      TAP; VRAMCAST lies in the build folder that is installed
"""
# needs: mandoc zsh fish
import pathlib
import sys

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path.insert(0, str(SOURCE / "tests"))
import installed

if __name__ == "__main__":
    sys.exit(installed.main(SOURCE, VRAMCAST.parent.parent))

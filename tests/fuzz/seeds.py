"""Writes archives that the `unpack` target starts from: `python3 seeds.py FOLDER`."""

import pathlib
import stat
import sys
import warnings
import zipfile

warnings.filterwarnings("ignore", message="Duplicate name")

# One archive a line: names of its entries.
NAMES = [
    ["main.py"],
    ["main.py", "lib/", "lib/a.py"],
    ["../evil"],
    ["/evil"],
    ["a\\b"],
    ["C:/x"],
    ["a", "a"],
    ["a", "A"],
    ["a", "a/b"],
    ["./a", "a/./b"],
]


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, names in enumerate(NAMES):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(folder / f"{number}-{method}.zip", "w", method) as archive:
                for name in names:
                    archive.writestr(name, "text " * 20 if not name.endswith("/") else "")
    for name, kind in (("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO), ("device", stat.S_IFCHR)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (kind | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    with zipfile.ZipFile(folder / "zip64.zip", "w") as archive, archive.open("big", "w", force_zip64=True) as entry:
        entry.write(b"x")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

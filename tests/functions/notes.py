"""Keeps what it is told in a database in its temporary folder, and tells how much that is."""

import contextlib
import fcntl
import os
import sqlite3


def main(args):
    counts = []
    for mode in "delete", "wal":
        path = os.path.join(args["tmpDir"], f"notes-{mode}.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(f"pragma journal_mode={mode}")
            database.execute("create table if not exists notes(text)")
            database.execute("insert into notes values (?)", [args["text"]])
            database.commit()
            with contextlib.closing(sqlite3.connect(path)) as other:
                counts += other.execute("select count(*) from notes where text = ?", [args["text"]]).fetchone()
    with open(os.path.join(args["tmpDir"], "lock"), "w", encoding="utf-8") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return counts

"""Isolates: how they are opened and closed, and what they do not share."""

import os
import sys
import tempfile
import textwrap
import unittest

from driver import LOADED, RAISED, RESULT, HostAgent


class Host(unittest.TestCase):
    def setUp(self):
        self.agent = HostAgent()
        self.addCleanup(self.agent.end)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def write(self, name, source):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(source))
        return path

    def isolate(self, source, name="main.py"):
        isolate = self.agent.open()
        self.assertEqual(isolate.load(self.write(name, source)), (LOADED, None))
        return isolate

    def number(self, isolate):
        return int(isolate.hello["token"].split()[1])

    def ends(self, number, reason="closed"):
        self.assertEqual(self.agent.closed(), {"isolate": number, "reason": reason, "outOfMemory": False})

    def test_opens_may_follow_each_other(self):
        numbers = {self.agent.order() for _ in range(8)}
        isolates = [self.agent.accept() for _ in numbers]
        self.assertEqual({self.number(isolate) for isolate in isolates}, numbers)

    def test_isolates_do_not_see_each_other(self):
        source = """
            import sys, json
            count = 0
            def main(args):
                global count
                count += 1
                json.seen = getattr(json, "seen", 0) + 1
                print(f"{args['who']} {count}")
                return [count, json.seen, sorted(name for name in sys.modules if name.startswith("only_"))]
        """
        self.write("only_first.py", "")
        first = self.isolate("import only_first\n" + textwrap.dedent(source), "first.py")
        second = self.isolate(source, "second.py")
        for turn in (1, 2):
            self.assertEqual(first.invoke({"who": "first"}), (RESULT, f'[{turn},{turn},["only_first"]]'))
            self.assertEqual(second.invoke({"who": "second"}), (RESULT, f"[{turn},{turn},[]]"))
        self.assertEqual(first.printed(), "first 1\nfirst 2\n")
        self.assertEqual(second.printed(), "second 1\nsecond 2\n")

    def test_isolates_run_at_once(self):
        fifo = os.path.join(self.directory, "fifo")
        os.mkfifo(fifo)
        waits = self.isolate("def main(args): return open(args['fifo']).read()", "waits.py")
        writes = self.isolate("def main(args): return open(args['fifo'], 'w').write('met')", "writes.py")
        arguments = f'{{"fifo": "{fifo}"}}'.encode()
        waits.send(0x82, arguments)
        writes.send(0x82, arguments)
        self.assertEqual(waits.answer(), (RESULT, b"met"))
        self.assertEqual(writes.answer(), (RESULT, b"3"))

    def test_an_idle_isolate_is_closed(self):
        isolate = self.isolate("def main(args): pass")
        self.agent.shut(self.number(isolate))
        self.ends(self.number(isolate))
        self.assertIsNone(isolate.frame())

    def test_an_isolate_without_a_function_is_closed(self):
        isolate = self.agent.open()
        self.agent.shut(self.number(isolate))
        self.ends(self.number(isolate))

    def test_an_isolate_ends_with_its_channel(self):
        isolate = self.isolate("def main(args): pass")
        isolate.close()
        self.ends(self.number(isolate))

    def test_closing_an_unknown_isolate_is_ignored(self):
        self.agent.shut(99)
        self.assertEqual(self.isolate("def main(args): return 'here'").invoke("{}"), (RESULT, "here"))

    def test_close_in_an_invocation_waits_for_its_end(self):
        fifo = os.path.join(self.directory, "fifo")
        os.mkfifo(fifo)
        isolate = self.isolate("def main(args): return open(args['fifo']).read()")
        isolate.send(0x82, f'{{"fifo": "{fifo}"}}'.encode())
        with open(fifo, "w"):  # opens when the function is in its `open`
            self.agent.shut(self.number(isolate))
            self.assertIsNone(isolate.frame())
        self.ends(self.number(isolate))

    def test_an_isolate_that_breaks_the_protocol_ends_alone(self):
        other = self.isolate("def main(args): return 'here'")
        isolate = self.agent.open()
        isolate.send(0x82, b"{}")
        closed = self.agent.closed()
        self.assertEqual(closed["isolate"], self.number(isolate))
        self.assertIn("a frame of kind 0x82 came before LOAD", closed["reason"])
        self.assertEqual(other.invoke("{}"), (RESULT, "here"))

    def test_an_isolate_that_cannot_connect(self):
        number = self.agent.order("/no/such/socket")
        closed = self.agent.closed()
        self.assertEqual(closed["isolate"], number)
        self.assertIn("FileNotFoundError", closed["reason"])

    def test_leaving_threads_behind(self):
        isolate = self.isolate("""
            import threading, time, concurrent.futures
            pool = concurrent.futures.ThreadPoolExecutor(2)
            def forever():
                while True: time.sleep(0.001)
            def main(args):
                if args["daemon"]: threading.Thread(target=forever, daemon=True).start()
                return pool.submit(sum, [1, 2]).result()
        """)
        kind, answer = isolate.invoke({"daemon": True})
        if kind == RAISED:  # an interpreter with its own GIL has no daemon threads
            self.assertIn("daemon threads", answer["message"])
            self.assertEqual(isolate.invoke({"daemon": False}), (RESULT, "3"))
        self.agent.shut(self.number(isolate))
        self.ends(self.number(isolate))
        self.assertEqual(self.isolate("def main(args): return 'here'").invoke("{}"), (RESULT, "here"))

    @unittest.skipIf(sys.version_info[:2] == (3, 12), "3.12 cannot load ctypes where it would be needed: Hydra kills the host")
    def test_leaving_a_thread_that_never_ends(self):
        isolate = self.isolate("""
            import threading, time
            def forever():
                while True: time.sleep(0.001)
            def main(args): threading.Thread(target=forever).start()
        """)
        self.assertEqual(isolate.invoke({}), (RESULT, "null"))
        self.agent.shut(self.number(isolate))
        self.ends(self.number(isolate))
        self.assertEqual(self.isolate("def main(args): return 'here'").invoke("{}"), (RESULT, "here"))

    def test_later_isolates_do_not_depend_on_earlier_ones(self):
        source = """
            import asyncio, datetime, decimal, hashlib, json, random, re, sqlite3, ssl, threading, urllib.request
            async def main(args):
                assert isinstance(decimal.Decimal(1) + 1, decimal.Decimal)
                try:
                    async with asyncio.timeout(0.001): await asyncio.sleep(60)
                except TimeoutError:
                    return datetime.datetime.strptime("1 May 2024", "%d %b %Y").isoformat()
        """
        for _ in range(3):
            isolate = self.isolate(source)
            self.assertEqual(isolate.invoke("{}"), (RESULT, "2024-05-01T00:00:00"))
            self.agent.shut(self.number(isolate))
            self.ends(self.number(isolate))

    @unittest.skipIf(sys.version_info >= (3, 12), "CPython keeps 1.4 MB and more of each ended interpreter that had a GIL of its own")
    def test_isolates_return_their_memory(self):
        def churn():
            for _ in range(20):
                isolate = self.isolate("import json\nkept = bytearray(1 << 20)\ndef main(args): pass")
                isolate.invoke("{}")
                isolate.close()
                self.ends(self.number(isolate))
            return self.resident()

        churn()
        before = churn()
        self.assertLess(churn() - before, 4 << 20)  # forty would hold 40 MiB and more

    def resident(self):
        with open(f"/proc/{self.agent.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def test_the_host_ends_with_its_control_channel(self):
        # Not a loop that only computes: in 3.11 a sub-interpreter is never asked to give the GIL to another.
        isolate = self.isolate("import time\ndef main(args):\n    while True: time.sleep(0.001)")
        isolate.send(0x82, b"{}")
        self.assertEqual(self.agent.end(), 0)

    def test_a_broken_control_channel(self):
        self.agent.control.send(0x01)
        self.assertEqual(self.agent.process.wait(30), 70)


if __name__ == "__main__":
    unittest.main()

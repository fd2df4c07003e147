"""The agent as a process: its command line, its descriptor, how it ends."""

import json
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

from driver import AGENT, HELLO, LOADED, RESULT, FunctionAgent


class Agent(unittest.TestCase):
    def setUp(self):
        self.agent = FunctionAgent()
        self.addCleanup(self.agent.end)

    def load(self, source):
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(source)
            file.flush()
            self.assertEqual(self.agent.connection.load(file.name), (LOADED, None))
        return self.agent.connection

    def test_hello(self):
        kind, payload = self.agent.hello
        self.assertEqual(kind, HELLO)
        self.assertEqual(
            json.loads(payload), {"protocol": 1, "language": "python", "runtime": "CPython " + sys.version.split()[0]},
        )

    def test_end_of_file(self):
        self.assertEqual(self.agent.end(), 0)

    def test_end_of_file_within_a_frame(self):
        self.agent.connection.peer.sendall(struct.pack("<IB3x", 100, 0x81) + b"{")
        self.assertEqual(self.agent.end(), 70)

    def test_frames_that_break_the_protocol(self):
        for frame in (struct.pack("<IB3x", (64 << 20) + 1, 0x81), b"\0\0\0\0\x81\0\1\0", struct.pack("<IB3x", 0, 0x82), struct.pack("<IB3x", 0, 0x7F)):
            with self.subTest(frame):
                agent = FunctionAgent()
                agent.connection.peer.sendall(frame)
                self.assertEqual(agent.process.wait(30), 70)
                agent.end()

    def test_frames_in_any_number_of_pieces(self):
        connection = self.load("def main(args): return args['a']")
        payload = b'{"a": "' + b"x" * 20_000 + b'"}'
        frame = struct.pack("<IB3x", len(payload), 0x82) + payload
        for cuts in ([1], [4], [8], [9], [8, 8192], [*range(1, 12)], [10_000]):
            for start, end in zip([0, *cuts], [*cuts, len(frame)]):
                connection.peer.sendall(frame[start:end])
            self.assertEqual(connection.answer(), (RESULT, b"x" * 20_000))
        connection.peer.sendall(frame + frame)
        self.assertEqual([connection.answer(), connection.answer()], [(RESULT, b"x" * 20_000)] * 2)

    def test_exit_ends_the_process(self):
        connection = self.load("import os\ndef main(args): os._exit(7)")
        connection.send(0x82, b"{}")
        self.assertIsNone(connection.answer())
        self.assertEqual(self.agent.process.wait(30), 7)

    def test_the_channel_does_not_reach_programs_that_the_function_starts(self):
        connection = self.load(
            "import os, subprocess\n"
            "def main(args):\n"
            "    return subprocess.run(['/bin/ls', '/proc/self/fd'], stdout=subprocess.PIPE, close_fds=False).stdout.decode()"
        )
        _, listing = connection.invoke("{}")
        self.assertEqual(listing.split(), ["0", "1", "2", "3"])  # 3 is the directory that ls reads

    def test_signals_have_their_default_action(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            agent = FunctionAgent()
            agent.process.send_signal(number)
            self.assertEqual(agent.process.wait(30), -number)
            agent.end()

    def test_usage(self):
        for arguments in ([], ["--function"], ["--function", "x"], ["--other", "3"]):
            done = subprocess.run([sys.executable, "-I", "-S", "-B", AGENT, *arguments], stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 64)
            self.assertIn(b"usage: agent.py", done.stderr)

    def test_little_is_imported(self):
        connection = self.load("import sys\ndef main(args): return sorted(sys.modules)")
        _, modules = connection.invoke("{}")
        self.assertFalse({"json", "re", "os", "traceback", "socket", "asyncio", "site"} & set(json.loads(modules)))


if __name__ == "__main__":
    unittest.main()

"""How isolates live and end in a language host."""
import json
import os
import struct
import time
import unittest

from agent import CLOSED, INVOKE, LOADED, LOG, OPEN, RAISED, RESULT, TIMEOUT, HostAgent

BUILD = os.environ["HYDRA_TEST_FUNCTIONS"]


class Host(unittest.TestCase):
    def setUp(self):
        self.agent = HostAgent()

    def tearDown(self):
        self.assertIn(self.agent.close(), (0, 70))

    def isolate(self, method):
        number, channel, _ = self.agent.open()
        self.addCleanup(channel.sock.close)
        self.assertEqual(channel.load(f"{BUILD}/functions.jar", f"Functions.{method}")[0], LOADED)
        return number, channel

    def closed(self):
        return json.loads(self.agent.channel.expect(CLOSED))

    def test_isolates_share_no_statics(self):
        (_, first), (_, second) = self.isolate("count"), self.isolate("count")
        self.assertEqual([first.invoke()[1], first.invoke()[1], second.invoke()[1]], ["1", "2", "1"])

    def test_output_goes_to_its_own_isolate(self):
        channels = [self.isolate("print")[1] for _ in range(3)]
        for _ in range(5):
            for channel in channels:
                channel.send(INVOKE)
            for channel in channels:
                kind, _, logs = channel.answer()
                self.assertEqual((kind, logs[1].count("line one"), logs[1].count("from a thread")), (RESULT, 1, 1))

    def test_invocations_run_side_by_side(self):
        _, busy = self.isolate("sleep")
        busy.send(INVOKE)
        self.assertEqual(busy.expect(LOG), b"\x01sleeping\n")
        self.assertEqual(self.isolate("count")[1].invoke()[1], "1")

    def test_close_and_end_of_file_end_an_isolate(self):
        number, channel = self.isolate("count")
        self.assertEqual(self.agent.close_isolate(number), {"isolate": number, "reason": "closed", "outOfMemory": False})
        self.assertIsNone(channel.receive())
        number, channel = self.isolate("count")
        channel.sock.close()
        self.assertEqual(self.closed(), {"isolate": number, "reason": "closed", "outOfMemory": False})

    def test_close_ends_invocations_that_wait_or_spin(self):
        for method in ("sleep", "spin"):
            number, channel = self.isolate(method)
            channel.send(INVOKE)
            channel.expect(LOG)
            self.assertEqual(self.agent.close_isolate(number)["isolate"], number)
        self.assertEqual(self.isolate("count")[1].invoke()[1], "1")

    def test_threads_that_a_function_left_end_before_its_isolate(self):
        _, other = self.isolate("spins")
        for method in ("leaveSpinning", "leaveIdle"):
            number, channel = self.isolate(method)
            self.assertEqual(channel.invoke()[1], "left")
            self.assertEqual(self.agent.close_isolate(number), {"isolate": number, "reason": "closed", "outOfMemory": False})
            last = other.invoke()[1]
            for _ in range(20):
                time.sleep(0.005)
                self.assertEqual(other.invoke()[1], last, method)

    def test_classes_of_a_closed_isolate_are_collected(self):
        number, channel = self.isolate("keepWeakly")
        self.assertEqual(channel.invoke()[1], "kept")
        _, other = self.isolate("isCollected")
        self.assertEqual(other.invoke()[1], "false")
        self.agent.close_isolate(number)
        # A thread of the isolate may still be alive when a collection comes.
        deadline = time.monotonic() + TIMEOUT
        while other.invoke()[1] != "true":
            self.assertLess(time.monotonic(), deadline, "the classes are still there")

    def test_exit_ends_only_its_isolate(self):
        _, bystander = self.isolate("count")
        for _ in range(2):
            number, channel = self.isolate("exit")
            channel.send(INVOKE)
            self.assertIsNone(channel.receive())
            self.assertEqual(self.closed(), {"isolate": number, "reason": "the function called System.exit", "outOfMemory": False})
        self.assertEqual(bystander.invoke()[1], "1")
        self.assertEqual(self.isolate("count")[1].invoke()[1], "1")

    def test_exhausted_heap_leaves_other_isolates_usable(self):
        _, bystander = self.isolate("count")
        _, channel = self.isolate("exhaust")
        kind, payload, _ = channel.invoke()
        self.assertEqual((kind, payload["type"]), (RAISED, "java.lang.OutOfMemoryError"))
        self.assertEqual(bystander.invoke()[1], "1")

    def test_an_isolate_that_cannot_connect_is_closed(self):
        self.agent.channel.send(OPEN, {"isolate": 9, "socket": self.agent.path + ".none", "token": "t", "memory": 64})
        closed = self.closed()
        self.assertEqual((closed["isolate"], closed["outOfMemory"]), (9, False))
        self.assertIn("cannot connect", closed["reason"])

    def test_broken_protocol_ends_the_isolate_only(self):
        _, bystander = self.isolate("count")
        number, channel = self.isolate("count")
        channel.sock.sendall(struct.pack("<IB3x", 0, 0x55))
        self.assertIsNone(channel.receive())
        closed = self.closed()
        self.assertEqual(closed["isolate"], number)
        self.assertIn("kind 0x55", closed["reason"])
        self.assertEqual(bystander.invoke()[1], "1")

    def test_many_isolates_opened_at_once(self):
        for number in range(1, 41):
            self.agent.channel.send(OPEN, {"isolate": number, "socket": self.agent.path, "token": f"t{number}", "memory": 64})
        tokens = set()
        for _ in range(40):
            connection, _ = self.agent.listener.accept()
            with connection:
                data = connection.recv(65536)
                tokens.add(json.loads(data[8:])["token"])
        self.assertEqual(tokens, {f"t{number}" for number in range(1, 41)})
        self.assertEqual({self.closed()["isolate"] for _ in range(40)}, set(range(1, 41)))

    def test_broken_control_channel_exits_with_70(self):
        self.agent.channel.sock.sendall(struct.pack("<IB3x", 0, 0x55))
        self.assertEqual(self.agent.process.wait(20), 70)


if __name__ == "__main__":
    unittest.main()

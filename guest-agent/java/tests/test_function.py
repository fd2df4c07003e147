"""What a function sees and answers. Every test runs in both modes, against one real agent process each."""
import json
import os
import socket
import struct
import subprocess
import tempfile
import unittest

from agent import INVOKE, LOAD, LOADED, LOAD_FAILED, RAISED, RESULT, FunctionAgent, HostAgent

BUILD = os.environ["HYDRA_TEST_FUNCTIONS"]


class Functions:
    """The tests of a function channel; the subclasses say where the channel comes from."""

    def loaded(self, method, **options):
        channel = self.new_channel()
        kind, payload, _ = channel.load(f"{BUILD}/functions.jar", f"Functions.{method}", **options)
        self.assertEqual(kind, LOADED, payload)
        return channel

    def call(self, method, arguments=b"{}", **options):
        return self.loaded(method, **options).invoke(arguments)

    def result(self, method, arguments=b"{}", **options):
        kind, payload, _ = self.call(method, arguments, **options)
        self.assertEqual(kind, RESULT, payload)
        return payload

    def raised(self, method, arguments=b"{}", **options):
        kind, payload, _ = self.call(method, arguments, **options)
        self.assertEqual(kind, RAISED, payload)
        self.assertNotIn("hydra.agent", payload["stack"])
        self.assertNotIn("reflect", payload["stack"])
        return payload

    def load_failure(self, code, entry):
        kind, payload, _ = self.new_channel().load(f"{BUILD}/{code}", entry)
        self.assertEqual(kind, LOAD_FAILED, payload)
        self.assertNotIn("hydra.agent", payload["stack"])
        return payload

    def test_arguments_are_json_or_text(self):
        channel = self.loaded("echo", tmp="/tmp/own")
        self.assertEqual(json.loads(channel.invoke('{"a": [1, 2.5, null], "tmpDir": "x"}')[1]), {"a": [1, 2.5, None], "tmpDir": "/tmp/own"})
        self.assertEqual(json.loads(channel.invoke("")[1]), {"tmpDir": "/tmp/own"})
        channel = self.loaded("any")
        for text, name, value in [("[1]", "java.util.ArrayList", "[1]"), ("5", "java.lang.Long", "5"), ("null", "null", "null"),
                                  ('"x"', "java.lang.String", "x"), ("plain {text", "java.lang.String", "plain {text"),
                                  ("{}", "java.util.LinkedHashMap", "{tmpDir=/tmp}")]:
            self.assertEqual(json.loads(channel.invoke(text)[1]), {"class": name, "value": value})
        channel = self.loaded("text")
        self.assertEqual(channel.invoke('{ "a" : 1 }')[1], '{"a":1,"tmpDir":"/tmp"}')
        self.assertEqual(channel.invoke("[ 1 ]")[1], "[ 1 ]")
        self.assertEqual(channel.invoke("grüße, {")[1], "grüße, {")

    def test_a_later_function_takes_the_place_of_the_first(self):
        channel = self.loaded("count")
        self.assertEqual([channel.invoke("{}")[1] for _ in range(2)], ["1", "2"])
        # Its classes are loaded anew, with what they hold.
        self.assertEqual(channel.load(f"{BUILD}/functions.jar", "Functions.count")[0], LOADED)
        self.assertEqual(channel.invoke("{}")[1], "1")
        self.assertEqual(channel.load(f"{BUILD}/functions.jar", "Functions.echo", tmp="/tmp/own")[0], LOADED)
        self.assertEqual(channel.invoke("{}")[1], '{"tmpDir":"/tmp/own"}')

    def test_arguments_that_a_map_cannot_hold_are_raised(self):
        channel = self.loaded("echo")
        for text, message in [("[1]", "an array"), ("{x", "not JSON"), ("[" * 600 + "]" * 600, "deeper than 512")]:
            kind, payload, _ = channel.invoke(text)
            self.assertEqual((kind, payload["type"]), (RAISED, "InvalidArguments"))
            self.assertIn(message, payload["message"])
        self.assertEqual(channel.invoke("{}")[0], RESULT)

    def test_overloads_prefer_map(self):
        self.assertEqual(self.result("overloaded"), '{"took":"Map"}')

    def test_instance_methods_and_primitive_results(self):
        self.assertEqual(self.result("onInstance"), "Functions")
        channel = self.loaded("count")
        self.assertEqual([channel.invoke(b"")[1] for _ in range(40)], [str(i) for i in range(1, 41)])
        self.assertEqual(self.result("nothing"), "null")

    def test_results_of_all_shapes(self):
        self.assertEqual(json.loads(self.result("shapes")), {
            "ints": [1, 2], "strings": ["a", None], "record": {"x": 1, "names": ["n"]}, "enum": "RED", "char": "c", "keys": {"7": True},
            "text": '"\\\n\x01ä€😀', "double": 1e10, "big": 123456789012345678901234567890})

    def test_results_without_json_form_are_raised(self):
        channel = self.loaded("unknown")
        kind, payload, _ = channel.invoke(b"")
        self.assertEqual((kind, payload["type"]), (RAISED, "InvalidResult"))
        self.assertIn("result.rows[1] is a java.util.Date", payload["message"])
        self.assertIn("NaN", self.raised("notFinite")["message"])
        self.assertIn("contains itself", self.raised("cycle")["message"])

    def test_large_frames_and_max_result(self):
        self.assertEqual(len(self.result("large", '{"length": 20000000}')), 20_000_000)
        channel = self.loaded("large", max_result=1000)
        self.assertEqual(channel.invoke({"length": 1000})[1], "x" * 1000)
        kind, payload, _ = channel.invoke({"length": 1001})
        self.assertEqual((kind, payload["type"]), (RAISED, "ResultTooLarge"))
        text = "ä" * 1_000_000
        channel = self.loaded("text")
        self.assertEqual(channel.invoke(text)[1], text)
        self.assertEqual(channel.invoke("small")[1], "small")

    def test_exceptions_show_the_functions_own_frames(self):
        channel = self.loaded("raise")
        for _ in range(30):  # The JVM changes how it calls after 15 times.
            kind, payload, _ = channel.invoke(b"")
            self.assertEqual((kind, payload["message"], payload["type"]), (RAISED, "outer", "java.lang.IllegalStateException"))
            lines = payload["stack"].splitlines()
            self.assertEqual(lines[0], "java.lang.IllegalStateException: outer")
            self.assertRegex(lines[1], r"^\tat Functions.raise\(Functions.java:\d+\)$")
            self.assertEqual(lines[2], 'Caused by: java.lang.NumberFormatException: For input string: "x"')
            self.assertRegex(lines[-1], r"^\tat Functions.raise")
            self.assertNotIn("hydra.agent", payload["stack"])
            self.assertNotIn("reflect", payload["stack"])
        self.assertIn("getMessage threw", self.raised("raiseHostile")["message"])

    def test_exhausted_stack_and_heap_leave_the_function_usable(self):
        channel = self.loaded("recurse")
        for _ in range(2):
            kind, payload, _ = channel.invoke(b"1")
            self.assertEqual((kind, payload["type"]), (RAISED, "java.lang.StackOverflowError"))
        channel = self.loaded("exhaust")
        for _ in range(2):
            kind, payload, _ = channel.invoke(b"1")
            self.assertEqual((kind, payload["type"]), (RAISED, "java.lang.OutOfMemoryError"))

    def test_arguments_larger_than_the_heap_are_raised(self):
        channel = self.small_channel()
        self.assertEqual(channel.load(f"{BUILD}/functions.jar", "Functions.text")[0], LOADED)
        kind, payload, _ = channel.invoke("x" * 50_000_000)
        self.assertEqual((kind, payload["type"]), (RAISED, "java.lang.OutOfMemoryError"))
        self.assertEqual(channel.invoke("ok")[1], "ok")

    def test_prints_arrive_before_the_answer(self):
        kind, payload, logs = self.call("print")
        self.assertEqual((kind, payload), (RESULT, "done"))
        self.assertEqual(logs, {1: "line one\ngrüß 5 from a thread\nno newline", 2: "error line\n"})

    def test_long_lines_and_wrong_bytes(self):
        kind, _, logs = self.call("printMuch")
        self.assertEqual((kind, logs[1]), (RESULT, "€" * 100_000 + "\n\ufffd\n"))

    def test_threads_that_die_are_logged(self):
        kind, _, logs = self.call("dieInThread")
        self.assertEqual(kind, RESULT)
        self.assertIn("java.lang.IllegalStateException: in a thread", logs[2])

    def test_interrupts_do_not_reach_the_next_invocation(self):
        channel = self.loaded("interrupt")
        for _ in range(3):
            self.assertEqual(channel.invoke(b""), (RESULT, "false", {1: "printed while interrupted\n", 2: ""}))

    def test_functions_do_not_see_the_agent(self):
        self.assertEqual(json.loads(self.result("snoop")), {"agent": False, "context": True, "resource": True})
        # Only the pipe and /proc of the child itself, no socket.
        self.assertNotIn("socket:", self.result("childDescriptors"))

    def test_code_in_all_forms(self):
        for code, entry, want in [
                ("packaged.jar", None, "inner"), ("packaged.jar", "com.example.Packaged", "inner"),
                ("packaged.jar", "com.example.Packaged.main", "inner"), ("packaged/com/example/Packaged.class", None, "inner"),
                ("packaged", "com.example.Packaged", "inner"), ("tree", "com.example.Packaged", "inner"), ("tree", None, "inner"),
                ("functions/Functions.class", "Functions.onInstance", "Functions"), ("functions", "Functions.text", '{"tmpDir":"/tmp"}')]:
            with self.subTest(code=code, entry=entry):
                channel = self.new_channel()
                self.assertEqual(channel.load(f"{BUILD}/{code}", entry)[0:2], (LOADED, ""))
                self.assertEqual(channel.invoke(b"{}")[1], want)

    def test_load_failures_say_what_is_wrong(self):
        for code, entry, kind, message in [
                ("none.jar", "Main", "java.io.FileNotFoundException", "there is no code"),
                ("text.jar", "Main", "java.util.zip.ZipException", "cannot read the code text.jar"),
                ("functions.jar", None, "java.lang.ClassNotFoundException", "no jar names a Main-Class; there is Broken, Functions, Program"),
                ("functions.jar", "Wrong", "java.lang.ClassNotFoundException", "there is no class Wrong; there is Broken, Functions"),
                ("functions.jar", "Functions.wrong", "java.lang.NoSuchMethodException", "Functions has no method wrong"),
                ("functions.jar", "Functions.hidden", "java.lang.NoSuchMethodException", "no method hidden"),
                ("functions.jar", "Program", "java.lang.NoSuchMethodException", "only a main(String[])"),
                ("functions.jar", "Broken", "java.lang.ExceptionInInitializerError", 'For input string: "not a number"'),
                ("newer.class", None, "java.lang.UnsupportedClassVersionError", "more recent version"),
                ("newer", "Program", "java.lang.UnsupportedClassVersionError", "compiled for a newer Java")]:
            with self.subTest(code=code, entry=entry):
                failure = self.load_failure(code, entry)
                self.assertEqual(failure["type"], kind, failure)
                self.assertIn(message, failure["message"])


class InFunctionMode(Functions, unittest.TestCase):
    def setUp(self):
        self.agents = []

    def tearDown(self):
        for agent in self.agents:
            self.assertEqual(agent.strays(), "")
            self.assertEqual(agent.close(), 0)

    def new_channel(self, **options):
        agent = FunctionAgent(**options)
        self.agents.append(agent)
        self.assertEqual((agent.hello["protocol"], agent.hello["language"]), (1, "java"))
        self.assertNotIn("token", agent.hello)
        return agent.channel

    def small_channel(self):
        return self.new_channel(heap=24)

    def test_temporary_files_go_to_tmp_dir(self):
        with tempfile.TemporaryDirectory() as directory:
            self.assertEqual(self.result("temporary", tmp=directory), directory)

    def test_exit_ends_the_process(self):
        channel = self.loaded("exit")
        channel.send(INVOKE)
        self.assertIsNone(channel.receive())
        self.assertEqual(self.agents.pop().close(), 3)

    def test_threads_left_behind_do_not_keep_the_process(self):
        self.assertEqual(self.result("leaveThread"), "left")

    def test_broken_protocol_exits_with_70(self):
        for data in [struct.pack("<IB3x", 0, 0x55), struct.pack("<IB3x", 0, INVOKE), struct.pack("<IB3x", (64 << 20) + 1, LOAD),
                     struct.pack("<IB3s", 0, LOAD, b"\0\1\0"), struct.pack("<IB3x", 2, LOAD) + b"[]"]:
            agent = FunctionAgent()
            agent.channel.sock.sendall(data)
            self.assertIsNone(agent.channel.receive())
            self.assertEqual(agent.process.wait(20), 70)
            self.assertEqual(agent.close(), 70)

    def test_end_within_a_frame_is_the_end(self):
        agent = FunctionAgent()
        agent.channel.sock.sendall(b"\x05\0\0")
        agent.channel.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(agent.process.wait(20), 0)
        agent.close()

    def test_wrong_command_lines_are_refused(self):
        from agent import AGENT, JAVA
        for arguments in [[], ["--function"], ["--function", "x"], ["--other", "3"]]:
            done = subprocess.run([JAVA, "-cp", f"{AGENT}/hydra-agent.jar", "hydra.agent.Main", *arguments], capture_output=True, timeout=20)
            self.assertEqual(done.returncode, 64)
            self.assertIn(b"usage:", done.stderr)


class InHostMode(Functions, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = HostAgent()

    @classmethod
    def tearDownClass(cls):
        strays = cls.agent.strays()
        assert cls.agent.close() == 0
        assert strays == "", strays

    def setUp(self):
        self.opened = []
        self.small = None

    def tearDown(self):
        for number in self.opened:
            closed = self.agent.close_isolate(number)
            self.assertEqual(closed, {"isolate": number, "reason": "closed", "outOfMemory": False})
        if self.small:
            self.assertEqual(self.small.close(), 0)

    def new_channel(self):
        number, channel, hello = self.agent.open()
        self.opened.append(number)
        self.assertEqual((hello["protocol"], hello["language"], hello["token"]), (1, "java", f"t{number}"))
        self.addCleanup(channel.sock.close)
        return channel

    def small_channel(self):
        self.small = HostAgent(heap=24)
        _, channel, _ = self.small.open()
        self.addCleanup(channel.sock.close)
        return channel


if __name__ == "__main__":
    unittest.main()

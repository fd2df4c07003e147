"""The example functions give what they promise, the same in both modes."""
import functools
import http.server
import json
import os
import tempfile
import threading
import unittest

from agent import LOADED, RESULT, FunctionAgent, HostAgent

BUILD = os.environ["HYDRA_TEST_EXAMPLES"]
LIST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "examples", "java", "functions.json")
with open(LIST, encoding="utf-8") as file:
    FUNCTIONS = json.load(file)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Examples(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=BUILD))
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def tearDown(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def check(self, channel, function):
        with tempfile.TemporaryDirectory() as tmp:
            kind, payload, _ = channel.load(f"{BUILD}/{function['artifact']}", function["entryPoint"], tmp=tmp)
            self.assertEqual(kind, LOADED, payload)
            for _ in range(3):
                kind, payload, _ = channel.invoke(json.dumps(function["arguments"]).replace("{base}", self.base))
                self.assertEqual((kind, json.loads(payload)), (RESULT, function["expect"]))
            self.assertEqual(os.listdir(tmp), [])

    def test_in_function_mode(self):
        for function in FUNCTIONS:
            with self.subTest(function["name"]):
                agent = FunctionAgent()
                self.check(agent.channel, function)
                self.assertEqual(agent.close(), 0)

    def test_in_host_mode(self):
        agent = HostAgent()
        for function in FUNCTIONS:
            with self.subTest(function["name"]):
                _, channel, _ = agent.open()
                self.check(channel, function)
                channel.sock.close()
        self.assertEqual(agent.close(), 0)


if __name__ == "__main__":
    unittest.main()

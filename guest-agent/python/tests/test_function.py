"""What a function sees and what it may do, the same in both modes."""

import json
import os
import tempfile
import textwrap
import unittest

from driver import LOAD_FAILED, LOADED, RAISED, RESULT, FunctionAgent, HostAgent


class Case(unittest.TestCase):
    """A test that gives code to an agent of the mode in question."""

    Agent = FunctionAgent

    def setUp(self):
        self.agent = self.Agent()
        self.addCleanup(self.agent.end)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def write(self, path, source):
        path = os.path.join(self.directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(source))
        return path

    def function(self, source, **load):
        """A connection whose function is `source`'s `main`."""
        connection = self.agent.open()
        self.assertEqual(connection.load(self.write("main.py", source), **load), (LOADED, None))
        return connection

    def refused(self, code, entry_point=None):
        kind, report = self.agent.open().load(code, entry_point)
        self.assertEqual(kind, LOAD_FAILED)
        return report


class Loading(Case):
    def loads(self, code, entry_point, result):
        connection = self.agent.open()
        self.assertEqual(connection.load(code, entry_point), (LOADED, None))
        self.assertEqual(connection.invoke("{}"), (RESULT, result))

    def test_a_file_of_any_name_by_default(self):
        self.loads(self.write("my-function.py", "def main(args): return 'file'"), None, "file")

    def test_a_single_file_is_a_module_as_any_other(self):
        names = ("__name__", "__file__", "__package__", "__spec__", "__cached__")
        source = f"""
            import inspect, pickle, sys
            class Kept: pass
            def main(args):
                again = __import__(__name__)
                assert again is sys.modules[__name__] and pickle.loads(pickle.dumps(Kept())).__class__ is Kept
                module = {{name: str(globals().get(name)) for name in {names}}}
                return module | {{"loader": type(__loader__).__mro__[-2].__name__, "source": inspect.getsource(Kept), "size": len("ä")}}
        """
        shown = []
        for folder in ("alone", "tree"):
            code = self.write(f"{folder}/main.py", source)
            connection = self.agent.open()
            self.assertEqual(connection.load(code if folder == "alone" else os.path.dirname(code)), (LOADED, None))
            kind, result = connection.invoke("{}")
            self.assertEqual(kind, RESULT, result)
            module = json.loads(result.replace(f"/{folder}/", "/"))
            module["__spec__"] = module["__spec__"].partition("origin=")[2]
            shown.append(module)
        self.assertEqual(*shown)

    def test_a_single_file_goes_before_the_languages_modules_that_are_files(self):
        for name in ("json", "__main__"):
            self.loads(self.write(f"{name}.py", "def main(args): return __name__"), f"{name}.main", name)
        self.loads(self.write("traceback.py", "import json\ndef main(args): return json.__name__"), None, "json")
        report = self.refused(self.write("sys.py", "def main(args): return 1"))
        self.assertIn("module 'sys' has no function 'main'", report["message"])

    def test_a_tree_by_default(self):
        self.write("helper.py", "value = 'helped'")
        self.write("main.py", "import helper\ndef main(args): return helper.value")
        self.loads(self.directory, None, "helped")

    def test_a_later_one_takes_the_place_of_the_first(self):
        connection = self.agent.open()
        for value in ("first", "second"):
            self.write(f"{value}/helper.py", f"import json\nvalue = {value!r}")
            code = self.write(f"{value}/main.py", """
                import helper, sys
                def main(args): return [helper.value, "json" in sys.modules, sum("/helper" in str(m) for m in sys.modules.values())]
            """)
            self.assertEqual(connection.load(code), (LOADED, None))
            kind, result = connection.invoke("{}")
            self.assertEqual((kind, json.loads(result)), (RESULT, [value, True, 1]))

    def test_an_entry_point_in_a_package(self):
        self.write("app/__init__.py", "")
        self.write("app/web/__init__.py", "")
        self.write("app/web/views.py", "from .. import web\nasync def handle(args): return web.__name__")
        self.loads(self.directory, "app.web.views.handle", "app.web")

    def test_a_missing_module_is_named_with_those_there_are(self):
        self.write("handler.py", "")
        report = self.refused(self.directory)
        self.assertEqual(report["type"], "EntryPointError")
        self.assertEqual(report["message"], "there is no module 'main' in the function's code; it holds handler")

    def test_a_missing_function_is_named_with_those_there_are(self):
        report = self.refused(self.write("main.py", "import os\ndef handler(args): pass\ndef _own(): pass"))
        self.assertEqual(report["message"], "module 'main' has no function 'main'; it has handler")

    def test_what_is_not_a_function(self):
        report = self.refused(self.write("main.py", "main = 3"))
        self.assertIn("main.main is not a function but of type int", report["message"])

    def test_an_entry_point_without_a_module(self):
        report = self.refused(self.write("app.py", "def main(args): pass"), "main")
        self.assertIn("must be written module.function, such as app.main, and is 'main'", report["message"])

    def test_a_missing_dependency_is_pythons_own_message(self):
        report = self.refused(self.write("main.py", "import no_such_package"))
        self.assertEqual((report["type"], report["message"]), ("ModuleNotFoundError", "No module named 'no_such_package'"))
        self.assertIn("import no_such_package", report["stack"])
        self.assertNotIn("hydra_agent", report["stack"])
        self.assertNotIn("importlib", report["stack"])

    def test_a_circle_of_imports_is_pythons_own_message(self):
        self.write("helper.py", "from main import later")
        report = self.refused(os.path.dirname(self.write("main.py", "import helper\nlater = 1\ndef main(args): pass")))
        self.assertIn("partially initialized module 'main'", report["message"])

    def test_a_syntax_error_is_pythons_own_message(self):
        report = self.refused(self.write("main.py", "def main(args):\n    return (1,\n"))
        self.assertEqual((report["type"], report["message"]), ("SyntaxError", "'(' was never closed (main.py, line 2)"))
        self.assertIn("^", report["stack"])

    def test_a_module_that_exits(self):
        self.assertEqual(self.refused(self.write("main.py", "raise SystemExit(3)"))["type"], "SystemExit")


class Arguments(Case):
    def setUp(self):
        super().setUp()
        self.connection = self.function("def main(args): return [type(args).__name__, args]", tmp_dir="/some/where")

    def sees(self, text, kind, value):
        outcome, result = self.connection.invoke(text)
        self.assertEqual(outcome, RESULT, result)
        self.assertEqual(json.loads(result), [kind, value])

    def test_an_object_gets_the_temporary_directory(self):
        self.sees('{"a": [1, 2.5, null, "\\u00e9"], "tmpDir": "/etc"}', "dict", {"a": [1, 2.5, None, "é"], "tmpDir": "/some/where"})
        self.sees(' \n{}\t', "dict", {"tmpDir": "/some/where"})
        self.sees("", "dict", {"tmpDir": "/some/where"})

    def test_other_json(self):
        self.sees("[1]", "list", [1])
        self.sees('"text"', "str", "text")
        self.sees("-1.5e3", "float", -1500.0)
        self.sees("true", "bool", True)
        self.sees("null", "NoneType", None)

    def test_what_is_not_json_is_text(self):
        for text in ("hello", "{", "[1,]", "{} {}", "NaN", "-Infinity", "[NaN]", "tru", " ", "Ünïcode", "01"):
            with self.subTest(text):
                self.sees(text, "str", text)

    def test_large_arguments(self):
        text = "x" * 3_000_000
        self.connection.send(0x82, json.dumps({"t": text}).encode())
        kind, report = self.connection.answer()
        self.assertEqual(json.loads(report)["type"], "ResultTooLarge")
        self.sees("[]", "list", [])


class Results(Case):
    def returns(self, expression, **load):
        return self.function(f"def main(args): return {expression}", **load).invoke("{}")

    def test_text_is_as_it_is(self):
        self.assertEqual(self.returns("'<\"é\\n😀>'"), (RESULT, '<"é\n😀>'))

    def test_a_string_subclass_is_text(self):
        self.assertEqual(self.returns("type('S', (str,), {})('text')"), (RESULT, "text"))

    def test_values_are_compact_json(self):
        self.assertEqual(self.returns("{'a': (1, 2.5, None, True), 2: 'é\"'}"), (RESULT, '{"a":[1,2.5,null,true],"2":"é\\""}'))

    def test_nothing_is_null(self):
        self.assertEqual(self.returns("None"), (RESULT, "null"))

    def test_what_is_not_json_is_an_invalid_result(self):
        for expression, why in (
            ("float('nan')", "float"), ("[float('inf')]", "float"), ("{1, 2}", "type set"), ("b'x'", "type bytes"),
            ("{(1, 2): 3}", "keys must be"), ("'\\ud800'", "not valid Unicode"), ("['\\ud800']", "not valid Unicode"),
            ("(lambda a: a.append(a) or a)([])", "ircular"),
        ):
            with self.subTest(expression):
                agent = self.Agent()
                self.addCleanup(agent.end)
                connection = agent.open()
                connection.load(self.write("main.py", f"def main(args): return {expression}"))
                kind, report = connection.invoke("{}")
                self.assertEqual((kind, report["type"]), (RAISED, "InvalidResult"))
                self.assertIn(why, report["message"])

    def test_the_longest_result(self):
        connection = self.function("def main(args): return 'é' * args['n']", max_result=200_000)
        self.assertEqual(connection.invoke({"n": 100_000}), (RESULT, "é" * 100_000))
        kind, report = connection.invoke({"n": 100_001})
        self.assertEqual((kind, report["type"]), (RAISED, "ResultTooLarge"))
        self.assertIn("200002", report["message"])


class Raising(Case):
    def raises(self, connection, text="{}"):
        kind, report = connection.invoke(text)
        self.assertEqual(kind, RAISED)
        return report

    def test_the_stack_is_the_functions_own(self):
        connection = self.function("""
            def main(args):
                try:
                    return args["missing"]
                except KeyError as error:
                    raise ValueError("no\\x00good \\udc80") from error
        """)
        report = self.raises(connection)
        self.assertEqual((report["type"], report["message"]), ("ValueError", "no\0good \udc80"))
        self.assertIn("direct cause", report["stack"])
        self.assertIn("in main", report["stack"])
        self.assertNotIn("hydra_agent", report["stack"])
        self.assertEqual(self.raises(connection)["type"], "ValueError")

    def test_an_async_functions_stack_too(self):
        report = self.raises(self.function("""
            import asyncio
            async def main(args):
                await asyncio.sleep(0)
                raise LookupError("lost")
        """))
        self.assertEqual(report["stack"].count("File "), 1)

    def test_whatever_is_raised_leaves_the_sandbox_usable(self):
        connection = self.function("""
            import asyncio, builtins
            def forever(): forever()
            def nested(n):
                value = []
                for _ in range(n): value = [value]
                return value
            async def main(args):
                what = args["what"]
                if what == "nothing": return "fine"
                if what == "RecursionError": forever()
                if what == "InvalidResult": return nested(100_000)
                if what == "MemoryError": bytearray(1 << 62)
                if what == "CancelledError": raise asyncio.CancelledError()
                raise getattr(builtins, what)("on purpose")
        """)
        for name in (
            "SystemExit", "KeyboardInterrupt", "GeneratorExit", "RecursionError", "MemoryError", "InvalidResult", "CancelledError",
            "StopIteration", "OSError",
        ):
            with self.subTest(name):
                expected = "RuntimeError" if name == "StopIteration" else name  # as Python turns it in a coroutine
                self.assertEqual(self.raises(connection, json.dumps({"what": name}))["type"], expected)
                self.assertEqual(connection.invoke('{"what": "nothing"}'), (RESULT, "fine"))

    def test_an_exception_that_cannot_be_shown(self):
        report = self.raises(self.function("""
            class Odd(Exception):
                def __str__(self): raise SystemExit
            def main(args): raise Odd()
        """))
        self.assertEqual(report["type"], "Odd")
        self.assertIn("its message failed", report["message"])

    def test_long_messages_are_cut_at_a_character(self):
        report = self.raises(self.function("def main(args): raise ValueError('é' * 300_000)"))
        self.assertEqual(report["message"], "é" * 32_768)
        self.assertLessEqual(len(report["stack"].encode()), 256 << 10)


class Printing(Case):
    def test_both_streams_come_before_the_answer(self):
        connection = self.function("""
            import sys
            print("loading")
            def main(args):
                print("one"); print("tw", end=""); print("o")
                print("trouble é \\udc80", file=sys.stderr)
                sys.stdout.buffer.write(b"\\xff bytes\\n")
                print("no newline", end="")
                return "done"
        """)
        self.assertEqual(connection.printed(), "loading\n")
        connection.log.clear()
        self.assertEqual(connection.invoke("{}"), (RESULT, "done"))
        self.assertEqual(connection.printed(1), "one\ntwo\n\ufffd bytes\nno newline")
        self.assertEqual(connection.printed(2), "trouble é \\udc80\n")
        self.assertEqual(connection.log[0], (1, "one\n"))

    def test_long_lines_are_split_at_characters(self):
        connection = self.function("def main(args): print('a' + '😀' * 50_000)")
        connection.invoke("{}")
        self.assertEqual(connection.printed(), "a" + "😀" * 50_000 + "\n")
        self.assertLessEqual(max(len(text.encode()) for _, text in connection.log), 64 << 10)

    def test_a_thread_prints_too(self):
        connection = self.function("""
            import threading
            def main(args):
                threads = [threading.Thread(target=print, args=("x" * 5000,)) for _ in range(8)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
        """)
        self.assertEqual(connection.invoke("{}"), (RESULT, "null"))
        self.assertEqual(connection.printed().replace("\n", ""), "x" * 40_000)

    def test_a_closed_stream_is_the_functions_own_trouble(self):
        connection = self.function("import sys\ndef main(args): sys.stdout.close(); return 'closed'")
        self.assertEqual(connection.invoke("{}"), (RESULT, "closed"))
        self.assertEqual(connection.invoke("{}"), (RESULT, "closed"))


class Awaiting(Case):
    def test_the_event_loop_stays_between_invocations(self):
        connection = self.function("""
            import asyncio
            loops = set()
            async def main(args):
                loops.add(asyncio.get_running_loop())
                try:
                    await asyncio.wait_for(asyncio.sleep(60), 0.001)
                except asyncio.TimeoutError:
                    return len(loops)
        """)
        self.assertEqual(connection.invoke("{}"), (RESULT, "1"))
        self.assertEqual(connection.invoke("{}"), (RESULT, "1"))

    def test_the_standard_library(self):
        connection = self.function("""
            import ctypes, datetime, decimal, hashlib, json, re, sqlite3, ssl, subprocess, threading, zlib
            def main(args):
                subprocess.run(["/bin/true"], check=True)
                return [hashlib.sha256(b"x").hexdigest()[:8], datetime.datetime.strptime("2024", "%Y").year,
                        json.dumps(1), str(decimal.Decimal("1.5")), sqlite3.connect(":memory:").execute("select 7").fetchone()[0]]
        """)
        self.assertEqual(connection.invoke("{}"), (RESULT, '["2d711642",2024,"1","1.5",7]'))


def in_host_mode(case):
    return type(f"{case.__name__}InAnIsolate", (case,), {"Agent": HostAgent})


for _case in (Loading, Arguments, Results, Raising, Printing, Awaiting):
    globals()[f"{_case.__name__}InAnIsolate"] = in_host_mode(_case)
del _case, Case

if __name__ == "__main__":
    unittest.main()

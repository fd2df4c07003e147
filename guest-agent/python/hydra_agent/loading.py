"""From a function's code and entry point to the Python function to call."""

import posix
import sys
from _frozen_importlib import _load as import_spec
from _frozen_importlib_external import SourceFileLoader, spec_from_file_location
from _imp import is_frozen

from .errors import EntryPointError

DEFAULT_MODULE = "main"
DEFAULT_FUNCTION = "main"
# What the agent offers functions to import; a module of the function's own goes before.
MODULES = f"{__file__.rpartition('/')[0]}/modules"
# Bytes that are read of a file at once.
CHUNK = 1 << 16
# Modules in whose place a function's own was put: others still use them.
replaced = {}


def load(code, entry_point):
    """Imports the module that `entry_point` names from `code`, a `.py` file or a directory, and returns its function, and the
    module.

    Without an entry point: `main` in the file's module, or in the directory's module `main`.
    Whatever the module raises while it is imported comes through.
    """
    directory, own_module = _locate(code)
    if entry_point:
        module_name, _, function_name = entry_point.rpartition(".")
        if not module_name or not function_name:
            raise EntryPointError(
                f"the entry point must be written module.function, such as {own_module}.{DEFAULT_FUNCTION}, and is {entry_point!r}"
            )
    else:
        module_name, function_name = own_module, DEFAULT_FUNCTION

    sys.path.insert(0, directory)
    sys.path.append(MODULES)
    loader = _find(module_name, code, directory)
    module = _import_by(loader) if loader else _import(module_name, directory)
    function = getattr(module, function_name, None)
    if callable(function):
        return function, module
    if function is None:
        raise EntryPointError(f"module {module_name!r} has no function {function_name!r}; {_functions_of(module)}")
    raise EntryPointError(
        f"{module_name}.{function_name} is not a function but of type {type(function).__name__}; {_functions_of(module)}"
    )


def remember():
    """How much is imported now, and from where; for `forget`. Nothing of what is imported is touched: clones share its pages."""
    return len(sys.modules), sys.path[:]


def forget(remembered):
    """Forgets the function's own modules that were imported since; those of the language stay."""
    count, path = remembered
    added = tuple(f"{directory}/" for directory in sys.path if directory not in path)
    sys.path[:] = path
    newest_first = reversed(sys.modules)
    for name in [next(newest_first) for _ in range(len(sys.modules) - count)]:
        if name.partition(".")[0] != __package__ and (getattr(sys.modules[name], "__file__", None) or "").startswith(added):
            del sys.modules[name]


def _locate(code):
    """The directory to import from, and the module that is meant if none is named."""
    if code.endswith(".py"):
        directory, _, file = code.rpartition("/")
        return directory, file[:-3]
    return code, DEFAULT_MODULE


class _FileLoader(SourceFileLoader):
    """Reads a module's file with few system calls; without a look for what it was compiled to, unless it is `compiled`."""

    def __init__(self, name, path, compiled=False):
        super().__init__(name, path)
        self._compiled = compiled

    def get_code(self, fullname):
        return super().get_code(fullname) if self._compiled else self.source_to_code(self.get_data(self.path), self.path)

    def get_data(self, path):
        file, data = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC), b""
        try:
            while len(part := posix.read(file, CHUNK)) == CHUNK:
                data += part
            return data + part
        finally:
            posix.close(file)


def _find(name, code, directory):
    """A loader for module `name` of the function if all that it can be is a source file in `directory`, where a new interpreter looks first."""
    if "." in name or name == __package__ or name in sys.builtin_module_names or is_frozen(name):
        return None
    path = f"{directory}/{name}.py"
    if path == code:
        return _FileLoader(name, path)
    try:
        entries = posix.listdir(directory)
    except OSError:
        return None
    others = name in entries or any(entry.startswith(f"{name}.") and entry.endswith(".so") for entry in entries)
    return _FileLoader(name, path, "__pycache__" in entries) if f"{name}.py" in entries and not others else None


def _import_by(loader):
    """Imports a module: as `import` does it, without a search. Also under the name of one that was imported before, which in a new
    interpreter it would go before, too.
    """
    name = loader.name
    if name in sys.modules:
        replaced[name] = sys.modules[name]
    return import_spec(spec_from_file_location(name, loader.path, loader=loader))


def _import(name, directory):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")) and not _is_there(error.name, directory):
            raise EntryPointError(
                f"there is no module {error.name!r} in the function's code; {_modules_in(directory)}"
            ) from None
        raise
    return sys.modules[name]


def _is_there(name, directory):
    """Whether the entry point's own module exists, so that something that it imports is what is missing."""
    import os.path

    path = os.path.join(directory, *name.split("."))
    return os.path.exists(path + ".py") or os.path.isdir(path)


def _modules_in(directory):
    import os

    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        return f"its directory cannot be read: {error.strerror}"
    files = [entry.name[:-3] for entry in entries if entry.name.endswith(".py")]
    # A directory full of bundled packages would hide the answer.
    names = files or [entry.name for entry in entries if entry.is_dir() and entry.name.isidentifier()]
    return "it holds " + _list(names) if names else "it holds no Python module"


def _functions_of(module):
    names = [
        name for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return "it has " + _list(names) if names else "it has no functions"


def _list(names, most=12):
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")

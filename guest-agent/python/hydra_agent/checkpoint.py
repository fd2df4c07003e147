"""Before a checkpoint: the function's hooks, and a program that is as small as it can be."""

import sys

from . import restored

BEFORE_CHECKPOINT = "before_checkpoint"
AFTER_RESTORE = "after_restore"


class Hooks:
    """What the function in `module` wants to be called: functions of these names, and those of the decorators in `hydra_hooks`."""

    def __init__(self, module):
        self._module = module

    def before_checkpoint(self):
        """Returns what the first hook that failed has raised, or None."""
        return _failure_of([*reversed(_decorated("_checkpoint_hooks")), *self._named(BEFORE_CHECKPOINT)])

    def after_restore(self):
        """As above."""
        return _failure_of([*self._named(AFTER_RESTORE), *_decorated("_restore_hooks")])

    def _named(self, name):
        hook = getattr(self._module, name, None)
        return [hook] if callable(hook) else []


def _decorated(name):
    return getattr(sys.modules.get("hydra_hooks"), name, ())


def _failure_of(hooks):
    try:
        for hook in hooks:
            result = hook()
            if hasattr(result, "__await__"):
                from .awaiting import wait_for

                wait_for(result)
    except BaseException as error:
        return error
    return None


def make_small():
    """Collects garbage. What is left is not looked at by later collections, which would write to pages that clones share: those of an
    earlier checkpoint, a template's above all, stay as they are.
    """
    import gc
    from posix import urandom

    # Not for its effect: no clone is to be the first to do it.
    restored.reseed(urandom(32).hex())
    gc.collect()
    gc.freeze()

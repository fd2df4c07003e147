"""For functions that run in snapshot sandboxes: what to call when the program is checkpointed and when it goes on from that.

    from hydra_hooks import on_checkpoint, on_restore

    @on_restore
    def reconnect(): ...

Plain functions and `async def` ones, without arguments. Where nothing is ever checkpointed they are not called.
"""

_checkpoint_hooks = []
_restore_hooks = []


def on_checkpoint(hook):
    """Calls `hook` when a checkpoint is about to be taken, the last one first. If it raises, none is taken."""
    _checkpoint_hooks.append(hook)
    return hook


def on_restore(hook):
    """Calls `hook` in every program that goes on from a checkpoint, the one that was checkpointed included, before its next
    invocation, in the order of registration. If it raises, that invocation fails."""
    _restore_hooks.append(hook)
    return hook

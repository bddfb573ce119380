"""The ledger, and everything that changes a host: apply and undo, verify, recover. Import the engine from here."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.engine.adopt import Wanted
    from quietcore.engine.defrag import Defrag
    from quietcore.engine.engine import Engine
    from quietcore.engine.ledger_file import LedgerFile
    from quietcore.engine.repin import Move
    from quietcore.engine.sandbox import SandboxChange
    from quietcore.engine.views import Outcome, VmView
    from quietcore.engine.world import Event, World
else:
    __getattr__ = names_of(
        __name__,
        adopt="Wanted",
        defrag="Defrag",
        engine="Engine",
        ledger_file="LedgerFile",
        repin="Move",
        sandbox="SandboxChange",
        views="Outcome VmView",
        world="Event World",
    )

__all__ = ["Defrag", "Engine", "Event", "LedgerFile", "Move", "Outcome", "SandboxChange", "VmView", "Wanted", "World"]

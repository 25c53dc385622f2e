"""What a desk does over and over, until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

from bayeslora_tool.desk.applying import Applied
from bayeslora_tool.desk.erasing import check_age
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.store import LedgerError

logger = logging.getLogger(__name__)

_LOOKS = 60.0  # seconds between two looks at all threads
_PATIENCE = 2.0  # seconds for who is being told when this ends


def work(
    ledger: Ledger,
    sync: Callable[[], object],
    apply: Callable[[], list[Applied]],
    stop: Event,
    every: float,
    retain: float | None,
) -> None:
    """Apply, sync, tell webhooks and erase; a ledger that is away is logged and waited for."""
    if retain is not None:
        check_age("retain", retain)
    tells = Thread(
        target=ledger.webhooks.send_until,
        args=(stop,),
        kwargs={"every": every},
        name="desk webhooks",
        daemon=True,  # who is told may take their time
    )
    tells.start()
    rounds = max(1, round(_LOOKS / every))
    done = 0
    while not stop.is_set():
        try:
            if done % rounds == 0:
                sync()
                if retain is not None:
                    ledger.erase(retain)
            for one in apply():
                if one.result == "failed":
                    # The rest of it may quote the text.
                    kind = (one.problem or "").partition(":")[0]
                    logger.error("review %s failed (%s); `show` says more", one.review, kind)
            done += 1
        except LedgerError as error:
            logger.error("%s", error)
        except Exception:  # of a checkpointer, or a server
            logger.exception("this round of the desk broke off; the next one tries again")
        stop.wait(every)
    tells.join(_PATIENCE)

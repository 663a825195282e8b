"""A node's lifetime: what is opened, in which order, and closed again in the reverse one."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from peatnet.blobs import Database, Store
from peatnet.concurrency import bare_errors
from peatnet.datadir import NODE, HeldByVerb, keep_reserve, locked_data_dir
from peatnet.deploy.known_nodes import KnownNodes
from peatnet.identity import load_or_create
from peatnet.ledger import Ledger, parse_peer_id
from peatnet.library import Library
from peatnet.log import get_logger
from peatnet.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager

    from peatnet.config import Config

# A command that works in the data directory without a node may wait for peers: so long a node that is to run there waits for it.
VERB_PATIENCE_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.1

log = get_logger(__name__)


@contextmanager
def open_library(config: Config, verb: str = NODE) -> Iterator[Library]:
    """Open a data directory for this process alone, and make what is missing in it.

    Args:
        config: says where it is.
        verb: what for, which others are told who find it locked.

    Raises:
        HeldByVerb: another process works in it, for a verb that is not a node.
        DataDirLocked: another process works in it.
        StorageError: it cannot be read or written, or is damaged.
        ConfigError: a trusted publisher in the configuration is no peer id.
    """
    with locked_data_dir(config.data_dir, verb):
        keep_reserve(config.data_dir)
        path = config.data_dir / "peatnet.db"
        identity = load_or_create(config.data_dir / "identity.key", database=path)
        database = Database.open(path)
        try:
            store = Store.open(
                config.data_dir,
                database,
                quota=config.quota_bytes,
                free_floor=config.free_floor_bytes,
            )
            if not store.blobs() and (lost := store.unindexed()):
                log.warning(
                    "the database knows none of the blobs here: what was trusted, pinned, published and in service is not "
                    "known any more; `peatnet verify --rebuild` enters and pins the blobs, the rest is to be done again",
                    blobs=len(lost),
                )
            trusted = config.parsed("trusted_publishers", parse_peer_id)
            ledger = Ledger(database, identity.keys, trusted)
            yield Library(config, identity, database, store, ledger)
        finally:
            database.close()


@asynccontextmanager
async def open_node(
    config: Config, *, network: bool = True, lasting: bool = True, verb: str = NODE
) -> AsyncIterator[Node]:
    """Run a node for as long as the context lasts.

    Args:
        config: its settings; see :func:`peatnet.config.load_config`.
        network: False for a node that only works on its store: libp2p is not imported, nothing listens.
        lasting: False for a node that lives for one task: what it was asked for and has not done is forgotten.
        verb: what it lives for; others who find the data directory locked are told.

    A node that is no verb's waits a minute at most for a verb that works in the data directory.

    Raises:
        DataDirLocked: another node runs on the data directory, or a verb works there.
        ListenError: an address cannot be listened on.
        ConfigError: an address or a peer id in the configuration is malformed.
        StorageError: the data directory cannot be used.
    """
    rng = random.Random()  # noqa: S311  # spreads times and breaks ties; a system call for each would be dear
    opening, library = await _opened(config, verb)
    try:
        with bare_errors():
            if not network:
                async with _running(Node(library, None, rng, lasting=False)) as node:
                    yield node
                return
            # Importing libp2p takes about a second; a node without a network does not pay it.
            from peatnet.net.addresses import (  # noqa: PLC0415  # see above
                parse_dial_address,
                parse_listen_address,
            )
            from peatnet.net.network import open_network  # noqa: PLC0415  # see above

            config.parsed("listen", parse_listen_address)
            config.parsed("peers", parse_dial_address)

            counter = await trio.to_thread.run_sync(
                KnownNodes(library.database).reserve, time.time_ns()
            )
            async with (
                open_network(
                    library.identity.seed,
                    library.ledger,
                    library.store,
                    listen=config.listen,
                    peers=config.peers,
                    mdns=config.mdns,
                    rng=rng,
                    bulk=config.bulk,
                    bulk_port=config.bulk_port,
                    upload_limit=config.upload_limit,
                    peer_upload_limit=config.peer_upload_limit,
                    gossip_counter=counter,
                ) as net,
                _running(Node(library, net, rng, lasting=lasting)) as node,
            ):
                yield node
    finally:
        opening.__exit__(None, None, None)


async def _opened(config: Config, verb: str) -> tuple[AbstractContextManager[Library], Library]:
    patience = VERB_PATIENCE_S if verb == NODE else 0.0
    give_up_at, told = trio.current_time() + patience, ""
    while True:
        opening = open_library(config, verb)
        try:
            return opening, await trio.to_thread.run_sync(opening.__enter__)
        except HeldByVerb as exc:
            if trio.current_time() >= give_up_at:
                raise
            if exc.message != told:
                log.info("waiting for the data directory", held_by=exc.message)
                told = exc.message
        await trio.sleep(_LOOK_AGAIN_S)


@asynccontextmanager
async def _running(node: Node) -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        try:
            yield node
        finally:
            nursery.cancel_scope.cancel()

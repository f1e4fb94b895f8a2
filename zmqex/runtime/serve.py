"""The life of a node's process: open everything, run, and close it in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import nacl.bindings

from zmqex import __version__
from zmqex.adapters.clock import monotonic_ms
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.routes import own_addresses
from zmqex.adapters.holds.choose import open_hold_server
from zmqex.adapters.ports import LightningInfo
from zmqex.adapters.storage.checkup import look_through
from zmqex.adapters.storage.directory import (
    DirectoryLock,
    create_private_file,
    open_data_directory,
    read_private_file,
    runtime_directory,
)
from zmqex.adapters.storage.journal import SQLITE_VERSION, Journal
from zmqex.adapters.transport.control import ControlSocket
from zmqex.adapters.transport.socks import Proxy
from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.config import Config, control_path, runtime_path, shared_settings
from zmqex.errors import ConfigError, HoldsUnavailableError, ZmqexError
from zmqex.kernel.commands import CheckJournal, GetStatus, ListHolds, LookupPeers, StopNode
from zmqex.kernel.core import Settings
from zmqex.kernel.effects import AnswerCommand
from zmqex.kernel.events import (
    CandidatesFound,
    CommandReceived,
    Event,
    Started,
    Stopping,
)
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.lease import NOT_LEADING
from zmqex.limits import DESCRIPTORS, LOCKED_PERCENT, STOP_WAIT_S
from zmqex.logs import configure_logs, get_logger
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import IdentityKey, to_text
from zmqex.runtime.accepting import AcceptCommand
from zmqex.runtime.faults import crash_hook
from zmqex.runtime.hold_watch import HoldWatch, run_id
from zmqex.runtime.networks import Networks, check_networks, quote_backends
from zmqex.runtime.node import Node
from zmqex.runtime.outside import HoldCalls, KernelWire
from zmqex.runtime.sources import Sources
from zmqex.settings import show_address
from zmqex.trading.swap import quote_of

NO_SOURCE: Final = (
    "this node knows nobody to ask for others; nodes of yours on this machine will find it, and "
    "for everybody else name one: `peers add HOST:PORT`, or `serve --bootstrap HOST:PORT`"
)
NO_SOURCE_PROXIED: Final = (
    "this node knows nobody, and behind a proxy it asks no DHT; name a peer: "
    "`peers add HOST:PORT`, or `serve --peer ID@HOST:PORT`"
)
_PAY_INSTRUCTIONS: Final = (
    "agree on how the quote is sent",
    "agree on how the quote is sent; play money needs no real transfer",
)
OnReady = Callable[[dict[str, Any]], None]
EXIT_DONE: Final = 0
EXIT_FAULT: Final = 70  # EX_SOFTWARE: the supervisor starts the node again


def serve(config: Config, on_ready: OnReady) -> int:
    """Run a node in this process until it is told to stop; returns the exit code.

    Raises ConfigError for what the operator must mend.  `on_ready` gets what `serve` prints.
    """
    directory = open_data_directory(config.data_dir)
    configure_logs(config.log_level, config.log_format, directory / "logs")
    _allow_descriptors()
    with DirectoryLock(directory):
        return asyncio.run(_Process(config, directory, on_ready).run())


class _Process:
    def __init__(self, config: Config, directory: Path, on_ready: OnReady) -> None:
        self._config = config
        self._directory = directory
        self._on_ready = on_ready
        self._log = get_logger()
        self._started_ms = monotonic_ms()
        self._early: list[Event] = []
        self._redis_pid: Callable[[], int] = int
        self._post: Callable[[Event], None] = self._early.append

    async def run(self) -> int:
        async with contextlib.AsyncExitStack() as stack:
            identity = IdentityKey(_identity_seed(self._directory / "identity.key"))
            path = self._directory / "journal.sqlite3"
            pid = self._hold_server_pid
            self._journal = Journal(path, on_commit=crash_hook("journal", pid))
            stack.callback(self._journal.close)
            self._networks = Networks(self._config, self._directory)
            stack.push_async_callback(self._networks.close)
            self._networks.open(crash_hook("ledger", pid))
            await self._open_holds(identity, stack)
            self._open_transport(stack)
            await self._open_sources(stack)
            tasks = await stack.enter_async_context(_calls())
            self._make_node(identity, await self._networks.checked(), tasks)
            stack.callback(self._node.verifier.close)
            stack.callback(self._node.cancel_calls)
            self._listen_to_signals()
            stack.push_async_callback(self._watch.give_back)
            self._node.on_wake = self._sources.wake
            for work in (
                self._beat(),
                *(calls.follow_backend() for calls in self._lightning_calls.values()),
            ):
                self._node.spawn(work)
            self._start()
            for work in self._watch.work():
                self._node.spawn(work)
            await self._node.stopped.wait()
            await self._stop()
        return EXIT_DONE if self._node.fault is None else EXIT_FAULT

    # --- opening -------------------------------------------------------------------------------

    async def _open_holds(self, identity: IdentityKey, stack: contextlib.AsyncExitStack) -> None:
        server = open_hold_server(
            self._config.redis,
            identity=identity.public_key,
            data_dir=self._directory,
            runtime_dir=runtime_directory(self._directory),
        )
        stack.push_async_callback(server.close)
        self._hold_server = server
        self._holds = server.holds
        if server.embedded is not None:
            embedded = server.embedded
            self._redis_pid = lambda: embedded.pid
        if server.notice:
            self._log.warning("hold_server_notice", notice=server.notice)
        if server.embedded is None:
            try:
                await self._holds.ping()
            except HoldsUnavailableError as error:
                self._log.warning("hold_server_silent", why=str(error), holds=self._config.holds)

    def _hold_server_pid(self) -> int:
        """The embedded hold server's process; our own where it is somebody else's."""
        return self._redis_pid() or os.getpid()

    def _open_transport(self, stack: contextlib.AsyncExitStack) -> None:
        config = self._config
        self._curve_key, secret = nacl.bindings.crypto_box_keypair()
        self._transport = ZeroMqTransport(
            self._deliver,
            curve_public=self._curve_key,
            curve_secret=secret,
            host=config.bind_host,
            hello_port=config.hello_port,
            rpc_port=config.rpc_port,
            orders_port=config.orders_port,
            proxy=self._proxy(),
        )
        self._transport.start()
        stack.callback(self._transport.close)
        self._control_path = control_path(self._directory)
        self._control = ControlSocket(self._deliver, self._control_path)
        self._control.start()
        stack.callback(self._control.close)

    def _proxy(self) -> Proxy | None:
        if self._config.proxy is None:
            return None
        return Proxy(self._config.proxy, runtime_directory(self._directory))

    async def _open_sources(self, stack: contextlib.AsyncExitStack) -> None:
        self._sources = Sources(self._config, self._directory, self._found)
        await self._sources.open(self._transport.hello_port)
        stack.push_async_callback(self._sources.close)

    def _make_node(
        self,
        identity: IdentityKey,
        backends: dict[str, LightningInfo],
        tasks: asyncio.TaskGroup,
    ) -> None:
        config, lightning = self._config, backends[BASE]
        settings = Settings(
            network=config.network,
            hold_ttl_ms=config.hold_ttl_ms,
            host=config.announce_host,
            hello_port=self._transport.hello_port,
            rpc_port=self._transport.rpc_port,
            orders_port=self._transport.orders_port,
            curve_key=self._curve_key,
            lightning_node=lightning.node,
            lightning_ledger=lightning.ledger,
            invoice_prefix=lightning.invoice_prefix,
            pay_instructions=_PAY_INSTRUCTIONS[config.lightning == "play"],
            can_hold=lightning.can_hold,
            max_trade_msat=config.max_trade_msat,
            max_held_msat=config.max_held_msat,
            max_day_msat=config.max_day_msat,
            locked_percent=LOCKED_PERCENT,
            spendable_msat=lightning.balance_msat,
            auto_cancel_blocks=lightning.auto_cancel_blocks,
            markets=config.markets,
            holds_strict=config.holds == "strict",
            stranger_percent=config.stranger_percent,
            asks_before_accept=bool(config.accept_command),
            leased=config.redis is not None,
            static_peers=config.peers,
            orders_per_stranger=config.orders_per_stranger,
            follow_all_max=config.follow_all_max,
            price_band_percent=config.price_band,
            proxied=config.proxy is not None,
            quote_backends=quote_backends(backends),
        )
        currencies = Currencies(config.currencies)
        kernel = Kernel(settings, identity, currencies, self._journal.load())
        check_networks(kernel, config)
        self._node = Node(kernel, self._journal, tasks)
        command = AcceptCommand(config.accept_command, self._node.post)
        self._node.ask_before_accept = command.carry_out
        wire = KernelWire(self._node.post)
        self._lightning_calls = self._networks.calls(self._node.post, self._node.spawn, wire)
        hold_calls = HoldCalls(self._holds, self._node.post)
        self._watch = HoldWatch(self._hold_server, hold_calls, self._node.post, owner=run_id())
        self._node.on_record = lambda record: self._sources.publish(record, identity)
        self._node.attach(
            self._transport,
            self._control,
            hold_calls,
            self._lightning_calls,
            wire,
            self._networks.receivers(),
        )

    # --- running -------------------------------------------------------------------------------

    def _start(self) -> None:
        self._post = self._node.post
        self._post(Started())
        # What is there by now stays.  A full collection would stop the loop for 40 ms to see that.
        gc.freeze()
        if self._node.fault is not None:
            raise self._node.fault  # the next one would find the same journal
        for event in self._early:
            self._deliver(event)
        self._sources.begin(
            self._transport.hello_port, self._node.kernel.sessions.lost_peers, self._node.spawn
        )
        info = self._where()
        path = runtime_path(self._directory)
        path.unlink(missing_ok=True)
        told = {**info, "settings": shared_settings(self._config)}
        create_private_file(path, msgspec.json.encode(told))
        self._log.info("serving", **info)
        notice = self._no_source()
        if notice:
            self._log.warning("no_source", notice=notice)
        self._on_ready({**info, "notice": notice})

    def _where(self) -> dict[str, Any]:
        host = self._config.bind_host
        return {
            "pid": os.getpid(),
            "identity": to_text(self._node.kernel.core.identity),
            "network": self._config.network,
            "money": self._node.kernel.core.money,
            "quote": quote_of(self._config.markets[0]),
            "quotes": list(self._config.quote_lightning),
            "data_dir": str(self._directory),
            "control": str(self._control_path),
            "host": host,
            "hello_port": self._transport.hello_port,
            "rpc_port": self._transport.rpc_port,
            "orders_port": self._transport.orders_port,
            "dht_port": self._sources.dht_port,
            "redis_pid": self._redis_pid(),
        }

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._node.stopped.set)

    def _found(self, candidates: list[Candidate]) -> None:
        found = tuple((one.host, one.port, one.source) for one in candidates)
        self._deliver(CandidatesFound(found))

    def _deliver(self, event: Event) -> None:
        """Answer what only this process knows; everything else is the kernel's."""
        if isinstance(event, CommandReceived) and self._post != self._early.append:
            calls = {
                GetStatus: self._answer_status,
                LookupPeers: self._answer_lookup,
                ListHolds: self._answer_holds,
                CheckJournal: self._answer_journal,
            }
            call = calls.get(type(event.command))
            if call is not None:
                self._node.spawn(call(event))
                return
            if isinstance(event.command, StopNode):
                self._answer(event, {"stopping": True})
                self._node.stopped.set()
                return
        self._post(event)

    async def _beat(self) -> None:
        parent = os.getppid()
        while True:
            # Behind a proxy our address is the proxy's business.
            self._node.beat(() if self._config.proxy else own_addresses())
            await asyncio.sleep(1)
            if self._config.supervised and os.getppid() != parent:
                self._log.warning("supervisor_ended")
                self._node.stopped.set()

    async def _stop(self) -> None:
        """Withdraw, and let what is on its way to the disk and the peers get there."""
        self._sources.withdraw()
        if self._node.fault is None:
            self._post(Stopping())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_WAIT_S):
                    await self._node.flushed()
                    await self._sources.flushed()
        runtime_path(self._directory).unlink(missing_ok=True)
        self._log.info("stopped", commits=self._journal.commits)

    # --- what only the process knows -------------------------------------------------------------

    def _answer(self, event: CommandReceived, result: dict[str, Any]) -> None:
        self._control.answer(event.client, event.request_id, ok=True, result=result)

    async def _answer_status(self, event: CommandReceived) -> None:
        core, kernel = self._node.kernel.core, self._node.kernel
        where = self._where()
        host = where["host"]
        ports = {
            name: show_address(host, where[f"{name}_port"]) for name in ("hello", "rpc", "orders")
        }
        no_source = self._no_source()
        warnings = [*([no_source] if no_source else []), *self._sources.warnings()]
        lightning = await self._networks.status(warnings)
        redis = await self._redis_status(warnings)
        redis["lease"] = kernel.lease.standing
        if not kernel.lease.leads():
            warnings.append(NOT_LEADING)
        counted = {**core.counted, **self._transport.counters()}
        result = {
            "identity": where["identity"],
            "network": core.settings.network,
            "version": __version__,
            "pid": where["pid"],
            "uptime_ms": monotonic_ms() - self._started_ms,
            "data_dir": where["data_dir"],
            "endpoints": {**ports, "dht": show_address(host, where["dht_port"])},
            "redis": redis,
            "lightning": {**lightning.pop(BASE), "money": core.money},
            "quote_lightning": {
                asset: {**one, "decimals": core.currencies.decimals(asset)}
                for asset, one in lightning.items()
            },
            "journal": {
                "path": str(self._journal.path),
                "commits": self._journal.commits,
                "sqlite": SQLITE_VERSION,
            },
            "peers": kernel.peer_counts(),
            "orders": {"open": kernel.orders.open_count()},
            "trades": {"running": len(kernel.trades.running())},
            "counters": dict(sorted(counted.items())),
            "dht": self._sources.health(),
            "grapes": self._sources.grapes(),
            "no_source": no_source,
            "warnings": warnings,
        }
        self._answer(event, result)

    async def _answer_journal(self, event: CommandReceived) -> None:
        look = self._journal.read(lambda connection: look_through(connection, "quick_check"))
        self._answer(event, {"problems": await asyncio.wrap_future(look)})

    async def _redis_status(self, warnings: list[str]) -> dict[str, Any]:
        try:
            info = await self._holds.info()
        except HoldsUnavailableError as error:
            warnings.append(f"the hold server does not answer: {error}")
            return {"ok": False, "server": "", "version": "", "pid": 0, "url": ""}
        return {
            "ok": True,
            "server": info.name,
            "version": info.version,
            "pid": info.pid,
            "embedded": info.embedded,
            "url": info.url,
        }

    async def _answer_lookup(self, event: CommandReceived) -> None:
        found = await self._sources.lookup()
        rows = [{"host": one.host, "port": one.port, "source": one.source} for one in found]
        self._answer(event, {"candidates": rows, "dht": self._sources.health()})

    def _no_source(self) -> str:
        """What to do where there is nobody whom this node could ask for others; else ""."""
        if self._node.kernel.sessions.knows_anybody() or self._sources.has_any():
            return ""
        return NO_SOURCE_PROXIED if self._config.proxy else NO_SOURCE

    async def _answer_holds(self, event: CommandReceived) -> None:
        """The journal's holds, each with what Redis says of it."""
        try:
            left = {view.trade_id.hex(): view.remaining_ms for view in await self._holds.list()}
        except HoldsUnavailableError:
            left = {}

        def enrich(answer: AnswerCommand) -> None:
            for hold in answer.result["holds"]:
                hold["redis_left_ms"] = left.get(hold["trade_id"])
            self._answer(event, answer.result)

        self._node.on_answer(event.client, event.request_id, enrich)
        self._post(event)


@contextlib.asynccontextmanager
async def _calls() -> AsyncIterator[asyncio.TaskGroup]:
    """The task group of all calls to the outside; leaving it cancels what still waits."""
    refused: ZmqexError | None = None
    async with asyncio.TaskGroup() as tasks:
        try:
            yield tasks
        except ZmqexError as error:
            # The group would wrap it, and whoever tells the operator would not know it again.
            refused = error
    if refused is not None:
        raise refused


def _allow_descriptors() -> None:
    """Each peer costs a few descriptors, and running out of them would stop the journal too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _identity_seed(path: Path) -> bytes:
    try:
        seed = read_private_file(path)
    except FileNotFoundError:
        seed = secrets.token_bytes(32)
        create_private_file(path, seed)
    if len(seed) != nacl.bindings.crypto_sign_SEEDBYTES:
        msg = f"{path} is not an identity key; restore it from a copy, or move it away"
        raise ConfigError(msg)
    return seed

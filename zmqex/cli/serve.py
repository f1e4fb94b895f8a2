"""`zmqex serve`: run a node until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from zmqex.cli.context import INVOCATION, say
from zmqex.config import load_config
from zmqex.settings import show_address

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="In place of zmqex.toml in the data directory.")
]
NoRestart = Annotated[
    bool, typer.Option("--no-restart", help="Do not start it again after a crash.")
]
# Flags that may be repeated -> the setting that holds them all.
_SEVERAL: Final = {
    "peer": "peers",
    "grape": "grapes",
    "service": "services",
    "lost_node": "lost_nodes",
    "market": "markets",
    "currency": "currencies",
}
Port = Annotated[int | None, typer.Option(help="0: any free one; none: the default or next.")]

Share = Annotated[int | None, typer.Option(help="Percent of an order that strangers may hold.")]


def serve(  # noqa: PLR0913 - one parameter per setting
    *,
    hello_port: Port = None,
    rpc_port: Port = None,
    orders_port: Port = None,
    dht_port: Port = None,
    bind_host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    announce_host: Annotated[str | None, typer.Option(help="The address that peers use.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="ID@host:port; repeat it.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="host:port of a DHT node.")] = None,
    grape: Annotated[
        list[str] | None, typer.Option(help="URL of a grape's HTTP side; repeat it.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="Announce under this name too; repeat it.")
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="Dial through socks5://HOST:PORT, like Tor's.")
    ] = None,
    redis: Annotated[str | None, typer.Option(help="A Redis in place of the embedded one.")] = None,
    holds: Annotated[str | None, typer.Option(help="Redis silent: strict or journal.")] = None,
    hold_ttl: Annotated[str | None, typer.Option(help="Shorter holds, for trying.")] = None,
    accept_command: Annotated[
        str | None, typer.Option(help="Asked before a take is accepted: JSON on stdin, 0 is yes.")
    ] = None,
    stranger_share: Share = None,
    network: Annotated[
        str | None, typer.Option(help="play, regtest, signet, testnet or mainnet.")
    ] = None,
    lightning: Annotated[str | None, typer.Option(help="play, lnd or cln.")] = None,
    quote_lightning: Annotated[
        list[str] | None, typer.Option(help="A quote's own network, like XYZ=play; repeat it.")
    ] = None,
    lost_node: Annotated[
        list[str] | None, typer.Option(help="A Lightning node that is gone for good.")
    ] = None,
    lnd_url: Annotated[str | None, typer.Option(help="LND's REST, https://HOST:8080.")] = None,
    lnd_macaroon: Annotated[Path | None, typer.Option(help="A file of mode 600.")] = None,
    lnd_cert: Annotated[Path | None, typer.Option(help="LND's own tls.cert.")] = None,
    cln_rpc: Annotated[Path | None, typer.Option(help="lightningd's socket.")] = None,
    cln_url: Annotated[str | None, typer.Option(help="Or clnrest, https://HOST:3010.")] = None,
    cln_rune: Annotated[Path | None, typer.Option(help="A file of mode 600.")] = None,
    cln_cert: Annotated[Path | None, typer.Option(help="clnrest's own certificate.")] = None,
    max_trade: Annotated[str | None, typer.Option(help="Most for one trade: 0.01BTC.")] = None,
    max_held: Annotated[str | None, typer.Option(help="Most at stake with one peer.")] = None,
    max_day: Annotated[str | None, typer.Option(help="Most for all trades of a day.")] = None,
    accept_real_money: Annotated[
        bool, typer.Option("--accept-real-money", help="Needed for mainnet.")
    ] = False,
    market: Annotated[list[str] | None, typer.Option(help="Like BTC/USD; repeat it.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="human or json.")] = None,
    pay: Annotated[str | None, typer.Option(help="What orders do: ask, auto, manual.")] = None,
    currency: Annotated[list[str] | None, typer.Option(help="Like XYZ=2; repeat it.")] = None,
    orders_per_stranger: Annotated[int | None, typer.Option(help="Of a new maker; 100.")] = None,
    follow_all_max: Annotated[int | None, typer.Option(help="Peers; with more, relay; 48.")] = None,
    price_band: Annotated[int | None, typer.Option(help="Percent that ask for --yes; 10.")] = None,
    config_file: ConfigFile = None,
    no_restart: NoRestart = False,
) -> None:
    """Start a node; it runs until Ctrl-C and is started again if it crashes."""
    given = {_SEVERAL.get(name, name): _given(value) for name, value in locals().items()}
    del given["config_file"], given["no_restart"]
    _run(given, config_file, no_restart=no_restart)


def _given(value: object) -> object:
    """A flag's value as a setting's; None where it was not given."""
    if isinstance(value, Path):
        return str(value)
    return None if value is False or value == [] else value


def _run(flags: dict[str, Any], config_file: Path | None, *, no_restart: bool) -> None:
    # Read the settings here too, so that a mistake is said once and at once.
    config = load_config(INVOCATION.choice(starting=True), flags, file=config_file)
    if not config.supervised and not no_restart:
        from zmqex.runtime.supervise import supervise  # noqa: PLC0415 - the parent needs no more

        os.environ.setdefault("ZMQEX_INVOKED_AS", INVOCATION.program)
        raise typer.Exit(supervise(sys.argv[1:]))
    from zmqex.runtime.serve import serve as run_node  # noqa: PLC0415 - loads everything

    raise typer.Exit(run_node(config, _ready))


def _ready(info: dict[str, Any]) -> None:
    host = info["host"]
    first = INVOCATION.hint(f"order buy 1BTC@1{info['quote']}")
    dht = f"DHT on UDP {info['dht_port']}" if info["dht_port"] else "no DHT, behind the proxy"
    money = info["money"]
    lines = [
        f"Node {INVOCATION.choice().name} is serving ({money}), process {os.getpid()}",
        f"  identity {info['identity']}",
        f"  hello    {show_address(host, info['hello_port'])} ({dht})",
        f"  rpc      {show_address(host, info['rpc_port'])}",
        f"  orders   {show_address(host, info['orders_port'])}",
        f"  data     {info['data_dir']}",
        *(f"  quote    {code} has a Lightning network too" for code in info["quotes"]),
        f"A first order, in another terminal:  {first}",
        "Ctrl-C ends the node.",
    ]
    if info["notice"]:
        lines.append(f"Note: {info['notice']}")
    say("\n".join(lines))

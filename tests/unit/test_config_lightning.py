"""Which money a node trades: nothing of value moves unless all of it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_config import load
from zmqex.adapters.lightning.choose import base_backend
from zmqex.backends import Backend
from zmqex.config import shared_settings
from zmqex.errors import ConfigError

LND = {"lnd_url": "https://127.0.0.1:8080", "lnd_macaroon": "/m", "lnd_cert": "/c"}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("network", "liquid", "is not one of play, regtest"),
        ("lightning", "lnd", "moves coins of a real chain"),
        ("lnd_url", "http://127.0.0.1:8080", "is not an address like https://"),
        ("lnd_macaroon", " ", "names no file"),
        ("accept_real_money", "perhaps", "is neither true nor false"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wrong(name: str, text: str, complaint: str) -> None:
    """Where it stands, in one sentence."""
    with pytest.raises(ConfigError) as error:
        load("", {name: text})
    assert str(error.value).startswith(f"--{name.replace('_', '-')}: ")
    assert complaint in str(error.value)


@pytest.mark.parametrize("missing", list(LND))
def test_a_backend_says_what_it_needs_besides(missing: str) -> None:
    """Whatever of it is not there is named by its flag."""
    flags = {"network": "signet", "lightning": "lnd", **LND}
    del flags[missing]
    with pytest.raises(ConfigError, match=f"lnd needs --{missing.replace('_', '-')} as well"):
        load("", flags)


def test_real_money_moves_only_where_all_of_it_was_asked_for() -> None:
    """The network, a real backend, and the words."""
    flags = {"network": "mainnet", "lightning": "lnd", **LND}
    with pytest.raises(ConfigError, match="add --accept-real-money"):
        load("", flags)
    for config in (
        load("", {**flags, "accept_real_money": True}),
        load("accept_real_money = true", flags),
        load("", flags, {"ZMQEX_ACCEPT_REAL_MONEY": "yes"}),
    ):
        assert config.accept_real_money
    assert load("", {**flags, "network": "regtest"}).lightning == "lnd"


def test_commands_are_told_which_money_their_node_trades() -> None:
    """So that they ask before they pay, also where the node was told by a flag."""
    flags = {"network": "mainnet", "lightning": "lnd", **LND, "accept_real_money": True}
    shared = shared_settings(load("", flags))
    again = load("", shared)
    assert (again.network, again.accept_real_money) == ("mainnet", True)
    assert "network" not in shared_settings(load())


def test_limits_are_read_as_amounts_and_real_money_has_some_by_itself() -> None:
    """Play money has none unless they are set."""
    flags = {"network": "mainnet", "lightning": "lnd", **LND, "accept_real_money": True}
    real = load("", {**flags, "max_trade": "0.5 BTC"})
    assert real.max_trade_msat == 50_000_000_000
    assert (real.max_held_msat, real.max_day_msat) == (5_000_000_000, 10_000_000_000)
    assert load().max_trade_msat == load().max_day_msat == 0
    assert load("", {"max_day": "1BTC"}).max_day_msat == 10**11
    with pytest.raises(ConfigError, match="--max-held: "):
        load("", {"max_held": "1 USD"})


def test_quotes_have_backends_of_their_own() -> None:
    """As flags, in the environment, and as a table; each form of each backend."""
    usd = {"USD": Backend("play")}
    for config in (
        load("", {"quote_lightning": ["usd=play"]}),
        load("", {}, {"ZMQEX_QUOTE_LIGHTNING": "USD=play"}),
        load('quote_lightning = { USD = "play" }'),
    ):
        assert config.quote_lightning == usd
    assert load().quote_lightning == {}
    real = {"network": "regtest", "lightning": "lnd", **LND, "currencies": ["XYZ=2", "ABC=0"]}
    real |= {"markets": ["BTC/XYZ", "BTC/ABC", "BTC/EUR"]}
    rest = Path("/m"), Path("/c")
    words = ["XYZ=lnd https://a:1 /m /c", "ABC=cln https://a:2/ /m /c", "EUR=cln '/my rpc'"]
    assert load("", {**real, "quote_lightning": words}).quote_lightning == {
        "XYZ": Backend("lnd", "https://a:1", *rest),
        "ABC": Backend("cln", "https://a:2", *rest),
        "EUR": Backend("cln", socket=Path("/my rpc")),
    }


@pytest.mark.parametrize(
    ("words", "flags", "complaint"),
    [
        ("USD", {}, "is not one of CODE=play, CODE=lnd URL"),
        ("USD=play twice", {}, "is not one of"),
        ("USD=lnd https://a:1 /m", {}, "is not one of"),
        ("USD=lnd http://a:1 /m /c", {}, "is not an address like https://"),
        ("USD=cln '", {}, "is not one of"),
        ("EUR=play", {}, "'EUR' is the quote of no market of this node; add --market BTC/EUR"),
        ("USD=cln /rpc", {}, "on the network play it must be play"),
        ("USD=play", {"network": "signet", "lightning": "lnd", **LND}, "it must be lnd or cln"),
        (
            "USD=cln /rpc",
            {"network": "mainnet", "lightning": "lnd", **LND, "accept_real_money": True},
            "no quote moves over Lightning on mainnet",
        ),
    ],
)
def test_a_quote_gets_no_backend_that_it_cannot_have(
    words: str, flags: dict[str, object], complaint: str
) -> None:
    """In one sentence."""
    with pytest.raises(ConfigError) as error:
        load("", {**flags, "quote_lightning": [words]})
    assert str(error.value).startswith("--quote-lightning: ")
    assert complaint in str(error.value)


def test_the_bases_backend_is_one_like_the_others() -> None:
    """Put together of its own settings."""
    flags: dict[str, object] = {"network": "signet", "lightning": "lnd", **LND}
    rest = Path("/m"), Path("/c")
    assert base_backend(load()) == Backend("play")
    assert base_backend(load("", flags)) == Backend("lnd", "https://127.0.0.1:8080", *rest)
    cln = {"network": "signet", "lightning": "cln"}
    assert base_backend(load("", {**cln, "cln_rpc": "/rpc"})) == Backend("cln", socket=Path("/rpc"))
    https = {"cln_url": "https://a:2", "cln_rune": "/m", "cln_cert": "/c"}
    assert base_backend(load("", {**cln, **https})) == Backend("cln", "https://a:2", *rest)


def test_a_lost_node_is_named_by_its_key() -> None:
    """As `serve` prints it, with its mark or without; each once, however it is written."""
    key = "02" + "ab" * 32
    assert load("", {"lost_nodes": [key, key.upper()]}).lost_nodes == (bytes.fromhex(key),)
    assert load(f'lost_nodes = ["{key}"]').lost_nodes == (bytes.fromhex(key),)
    assert load("", {"lost_nodes": key + "00ff00ff"}).lost_nodes[0][33:] == b"\0\xff\0\xff"
    assert load().lost_nodes == ()
    with pytest.raises(ConfigError, match=r"--lost-node: .* is not a Lightning node: 66"):
        load("", {"lost_nodes": ["alice"]})

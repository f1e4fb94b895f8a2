"""The Lightning backends of a node, opened from its settings: one for each asset."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.contract.redis_servers import make_certificate
from tests.lnd_fake import FakeChain, FakeLnd, GrpcError, serving
from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.ports import LightningInfo
from zmqex.backends import Backend
from zmqex.bolt11 import public_key
from zmqex.config import Config
from zmqex.errors import ConfigError, LightningUnavailableError
from zmqex.runtime.networks import Networks, quote_backends
from zmqex.runtime.outside import KernelWire


def test_each_asset_has_its_backend_its_calls_and_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is away is named, and takes nothing from the other."""
    networks = Networks(
        Config(data_dir=tmp_path, quote_lightning={"USD": Backend("play")}), tmp_path
    )

    async def story() -> None:
        networks.open(None)
        infos = await networks.checked()
        assert list(infos) == ["BTC", "USD"]
        (kernel_knows,) = quote_backends(infos).items()
        assert kernel_knows[0] == "USD"
        assert kernel_knows[1].node == infos["USD"].node
        assert kernel_knows[1].can_hold
        wire = KernelWire(lambda _event: None)
        assert list(networks.calls(lambda _event: None, _drop, wire)) == ["BTC", "USD"]
        assert list(networks.receivers()) == ["BTC", "USD"]
        warnings: list[str] = []
        said = await networks.status(warnings)
        assert [one["ok"] for one in said.values()] == [True, True]
        assert warnings == []
        monkeypatch.setattr(PlayLightning, "info", _behind)
        said = await networks.status(warnings)
        assert [one["ok"] for one in said.values()] == [True, True]
        why = "is behind its chain: what hangs on a lock waits until it is not"
        assert warnings == [f"Lightning {why}", f"Lightning of USD {why}"]
        warnings.clear()
        monkeypatch.setattr(PlayLightning, "info", _away)
        said = await networks.status(warnings)
        assert [one["ok"] for one in said.values()] == [False, False]
        assert warnings == [
            "Lightning does not answer: gone",
            "Lightning of USD does not answer: gone",
        ]
        await networks.close()

    asyncio.run(story())


def test_a_backend_that_cannot_be_reached_is_named_by_its_setting(tmp_path: Path) -> None:
    """The operator must know which of the two it is."""
    quotes = {"USD": Backend("cln", socket=tmp_path / "nobody")}
    networks = Networks(Config(data_dir=tmp_path, quote_lightning=quotes), tmp_path)

    async def story() -> None:
        networks.open(None)
        with pytest.raises(ConfigError, match="--quote-lightning USD=cln: "):
            await networks.checked()
        await networks.close()

    asyncio.run(story())


def _drop(work: Any) -> None:  # noqa: ANN401
    work.close()


async def _behind(backend: PlayLightning) -> LightningInfo:
    return LightningInfo(
        "play",
        "bcrt",
        backend.node,
        1,
        can_hold=True,
        balance_msat=0,
        in_flight_msat=0,
        synced=False,
    )


async def _away(_backend: PlayLightning) -> None:
    raise LightningUnavailableError("gone")


def test_a_real_backend_has_to_stay_the_node_that_it_was(tmp_path: Path) -> None:
    """Behind the same address, certificate and macaroon another node answers; then the first."""
    macaroon, certificate = tmp_path / "macaroon", tmp_path / "cert.pem"
    make_certificate(tmp_path)
    fake = FakeLnd(FakeChain(), "alice")
    macaroon.write_bytes(fake.macaroon)
    macaroon.chmod(0o600)

    async def story() -> None:
        async with serving(fake, certificate) as url:
            config = Config(
                data_dir=tmp_path,
                network="regtest",
                lightning="lnd",
                lnd_url=url,
                lnd_macaroon=macaroon,
                lnd_cert=certificate,
            )
            networks = Networks(config, tmp_path)
            networks.open(None)
            fake.faults["/v1/invoices"] = GrpcError(7, "permission denied")
            with pytest.raises(ConfigError, match=r"--lightning lnd: .*permission denied"):
                await networks.checked()
            fake.faults.clear()
            before = (await networks.checked())["BTC"]
            assert before.node == public_key(fake.secret)
            assert before.ledger[:33] == before.node
            secret, fake.secret = fake.secret, hashlib.sha256(b"another").digest()
            warnings: list[str] = []
            said = await networks.status(warnings)
            assert not said["BTC"]["ok"]
            assert len(warnings) == 1
            assert warnings[0].startswith("--lightning lnd: another Lightning node answers there")
            fake.secret = secret
            assert (await networks.status(warnings))["BTC"]["ok"]
            await networks.close()

    asyncio.run(story())

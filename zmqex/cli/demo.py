"""The whole story with real nodes: found, ordered, matched, held, invoiced, paid, settled, killed.

Each node is its own process with its own data directory, and every move is a command that a user
could type.  Each step says what it claims; a claim that does not hold ends the story with exit
code 1 and the name of the step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from rich.console import Console

from zmqex.errors import ZmqexError
from zmqex.limits import HOLD_TTL_MS

BTC: Final = 100_000_000  # lots in one bitcoin
MSAT_PER_LOT: Final = 1_000
_START_S: Final = 15.0
_SEEN_S: Final = 10.0
_COMMAND_S: Final = 30.0
_POLL_S: Final = 0.05
_HOLD_LEFT_MS: Final = HOLD_TTL_MS - 20_000
FAULTS: Final = ("stop-maker", "wrong-invoice")


T = TypeVar("T")


class StepFailedError(ZmqexError):
    """A claim of the story did not hold."""


class Step(msgspec.Struct):
    """One step as it happened."""

    name: str
    seconds: float = 0.0
    claims: dict[str, Any] = msgspec.field(default_factory=dict)
    error: str = ""


class DemoNode:
    """One `zmqex serve` and the commands that are given to it."""

    def __init__(self, name: str, root: Path, environment: dict[str, str]) -> None:
        """Name it; `start` makes it run."""
        self.name = name
        self.directory = root / "zmqex" / "nodes" / name
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._output = root / f"{name}.log"

    def start(self, extra: dict[str, str] | None = None) -> dict[str, Any]:
        """Start the node and wait until it says where it listens."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                self._command("serve"),
                env={**self._environment, **(extra or {})},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.wait_ready()

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the node answers `status`."""
        return wait_for(f"{self.name} answers", lambda: self.ask("status"), _START_S)

    def tell(self, *words: str) -> dict[str, Any]:
        """Give a command; its JSON answer.  StepFailedError where it is refused."""
        done = subprocess.run(  # noqa: S603 - ourselves
            self._command(*words, "--json"),
            env=self._environment,
            capture_output=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip().splitlines()
            last = why[-1] if why else f"exit code {done.returncode}"
            message = f"`{self.name}: {' '.join(words)}` was refused: {last}"
            raise StepFailedError(message)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def ask(self, *words: str) -> dict[str, Any] | None:
        """Like `tell`, but None where it is refused: for waiting."""
        try:
            return self.tell(*words)
        except StepFailedError:
            return None

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the node process itself; returns its pid."""
        pid = int(self.tell("status")["pid"])
        os.kill(pid, number)
        return pid

    def stop(self) -> None:
        """Ask it to end, and wait; what does not end is killed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "zmqex", "--node", self.name, *words]


class Story:
    """The steps, in order, and what they have claimed so far."""

    def __init__(self, root: Path, console: Console, fault: str | None) -> None:
        """Everything happens below `root`."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ZMQEX_")},
            "XDG_DATA_HOME": str(root),
            "ZMQEX_LOG_LEVEL": "info",
            # Not where nodes of this user have been: who remembers those would join the story.
            **{f"ZMQEX_{name}_PORT": "0" for name in ("HELLO", "RPC", "ORDERS", "DHT")},
        }
        self.alice = DemoNode("alice", root, environment)
        self.bob = DemoNode("bob", root, environment)
        self.carol = DemoNode("carol", root, environment)
        self.steps: list[Step] = []
        self._console = console
        self._fault = fault
        self._ids: dict[str, str] = {}
        self._order_id = ""
        self._trade_id = ""
        self._second_id = ""

    def run(self) -> bool:
        """Play everything; False where a step failed."""
        for play in (
            self._start_two_nodes,
            self._ping,
            self._buy_order,
            self._match,
            self._crossing_sell,
            self._hold_and_invoice,
            self._payment,
            self._quote_leg,
            self._books_and_balances,
            self._late_node,
            self._second_hold,
            self._kill_the_maker,
            self._second_settles,
            self._nothing_is_lost,
        ):
            if not self._play(play):
                return False
        return True

    def stop(self) -> None:
        """End every node."""
        for node in (self.alice, self.bob, self.carol):
            node.stop()

    def _play(self, play: Callable[[Step], None]) -> bool:
        step = Step((play.__doc__ or play.__name__).strip().rstrip("."))
        self.steps.append(step)
        began = time.monotonic()
        try:
            play(step)
        except (StepFailedError, subprocess.TimeoutExpired) as error:
            step.error = str(error)
        step.seconds = round(time.monotonic() - began, 2)
        self._show(step)
        return not step.error

    def _show(self, step: Step) -> None:
        mark = "failed" if step.error else "ok"
        style = "bold red" if step.error else "green"
        self._console.print(f"[{style}]{mark:>6}[/] {step.seconds:5.1f} s  [bold]{step.name}[/]")
        for claim, value in step.claims.items():
            text = str(value)
            self._console.print(f"                 {claim}: {text}", markup=False, highlight=False)
        if step.error:
            self._console.print(f"                 {step.error}", markup=False, style="red")

    # --- the steps: the docstring is the name -----------------------------------------------------

    def _start_two_nodes(self, step: Step) -> None:
        """Two nodes start and find each other in the DHT."""
        wrong = {"ZMQEX_FAULT": "wrong-invoice"} if self._fault == "wrong-invoice" else None
        for node, extra in ((self.alice, wrong), (self.bob, None)):
            status = node.start(extra)
            self._ids[node.name] = status["identity"]
            step.claims[f"{node.name} is"] = status["identity"]
            redis = status["redis"]
            step.claims[f"{node.name}'s hold server"] = f"{redis['server']} {redis['version']}"
        for node, other in ((self.alice, self.bob), (self.bob, self.alice)):
            self._wait_live(node, other)
        step.claims["live connections"] = "both ways"

    def _wait_live(self, node: DemoNode, other: DemoNode) -> None:
        def live() -> bool:
            peers = (node.ask("peers") or {"peers": []})["peers"]
            wanted = self._ids[other.name]
            return any(peer["peer"] == wanted and peer["state"] == "live" for peer in peers)

        wait_for(f"{node.name} is connected to {other.name}", live, _SEEN_S)

    def _ping(self, step: Step) -> None:
        """Alice pings Bob."""
        pong = self.alice.tell("ping", self._ids["bob"][:12])
        step.claims["round trip"] = f"{pong['round_trip_ms']} ms"

    def _buy_order(self, step: Step) -> None:
        """Alice buys 1 BTC at 1 USD."""
        order = self.alice.tell("order", "buy", "1BTC@1USD")["order"]
        self._order_id = order["order_id"]
        expect(order["state"] == "open", "the order rests in the book")
        self._wait_remaining(self.bob, BTC)
        step.claims["order"] = self._order_id
        step.claims["resting lots in Bob's book"] = BTC

    def _wait_remaining(self, node: DemoNode, lots: int, *, held: int = 0) -> None:
        def seen() -> bool:
            return self._book_row(node) == (lots, held)

        wait_for(f"{node.name}'s book shows {lots} lots, {held} held", seen, _SEEN_S)

    def _book_row(self, node: DemoNode) -> tuple[int, int]:
        book = node.ask("book", "BTC/USD", "--orders") or {"orders": []}
        for order in book["orders"]:
            if order["order_id"] == self._order_id:
                return order["remaining_lots"], order["held_lots"]
        return 0, 0

    def _match(self, step: Step) -> None:
        """Bob asks what would cross a sell of 0.4 BTC at 1 USD."""
        matches = self.bob.tell("match", "sell", "0.4BTC@1USD")["matches"]
        expect(len(matches) == 1, "one order crosses")
        expect(matches[0]["order_id"] == self._order_id, "it is Alice's")
        step.claims["crossing order"] = matches[0]["order_id"]
        step.claims["matched lots"] = matches[0]["quantity_lots"]

    def _crossing_sell(self, step: Step) -> None:
        """Bob sells 0.4 BTC at 1 USD: a partial fill of Alice's order."""
        stopped = self.alice.signal(signal.SIGSTOP) if self._fault == "stop-maker" else 0
        try:
            answer = self.bob.tell("order", "sell", "0.4BTC@1USD", "--ioc", "--pay", "manual")
        finally:
            if stopped:
                os.kill(stopped, signal.SIGCONT)
        skipped = [f"{one['maker'][:8]}: {one['reason']}" for one in answer["skipped"]]
        expect(bool(answer["trades"]), f"the maker holds it for Bob (skipped {skipped})")
        trade = answer["trades"][0]
        self._trade_id = trade["trade_id"]
        step.claims["trade"] = self._trade_id
        step.claims["taken lots"] = trade["quantity_lots"]

    def _hold_and_invoice(self, step: Step) -> None:
        """Alice holds the quantity for 15 minutes and has sent an invoice."""
        holds = self.alice.tell("hold", "list")["holds"]
        expect(len(holds) == 1, "there is one hold")
        left_ms = holds[0]["redis_left_ms"]
        expect(
            left_ms is not None and _HOLD_LEFT_MS < left_ms <= HOLD_TTL_MS,
            "Redis has it for 15 minutes",
        )
        self._wait_remaining(self.bob, BTC, held=4 * BTC // 10)
        invoice = self.bob.tell("trade", "show", self._trade_id)["trade"]["invoice"]
        decoded = self.bob.tell("invoice", "decode", invoice)
        expect(decoded["amount_msat"] == 4 * BTC // 10 * MSAT_PER_LOT, "the invoice is for 0.4 BTC")
        step.claims["held lots"] = holds[0]["quantity_lots"]
        step.claims["invoice"] = invoice
        step.claims["invoice amount msat"] = decoded["amount_msat"]
        step.claims["payment hash"] = decoded["payment_hash"]

    def _payment(self, step: Step) -> None:
        """Bob pays: play money, a real preimage."""
        trade = self.bob.tell("trade", "pay", self._trade_id)["trade"]
        expect(trade["state"] == "base_done", "the payment went through")
        self._wait_state(self.alice, self._trade_id, "base_done")
        expect(not self.alice.tell("hold", "list")["holds"], "the hold has become a fill")
        step.claims["paid msat"] = trade["base_msat"]

    def _wait_state(self, node: DemoNode, trade_id: str, state: str) -> None:
        def reached() -> bool:
            shown = node.ask("trade", "show", trade_id)
            return shown is not None and shown["trade"]["state"] == state

        wait_for(f"{node.name}'s trade is {state}", reached, _SEEN_S)

    def _quote_leg(self, step: Step) -> None:
        """Alice says that she sent 0.40 USD, Bob that he received it: settled."""
        self.alice.tell("trade", "sent", self._trade_id, "--yes")
        self._wait_state(self.bob, self._trade_id, "quote_sent")
        self.bob.tell("trade", "received", self._trade_id, "--yes")
        for node in (self.alice, self.bob):
            self._wait_state(node, self._trade_id, "settled")
        shown = self.alice.tell("trade", "show", self._trade_id)["trade"]
        step.claims["quote units"] = shown["quote_units"]

    def _books_and_balances(self, step: Step) -> None:
        """Both books show 0.6 BTC, both balances moved by 0.4 BTC."""
        for node in (self.alice, self.bob):
            self._wait_remaining(node, 6 * BTC // 10)
        step.claims["remaining lots"] = 6 * BTC // 10
        for node, change in ((self.alice, 4), (self.bob, -4)):
            balance = self._balance(node)
            expect(balance == (100 + change) * BTC // 10 * MSAT_PER_LOT, f"{node.name}'s balance")
            step.claims[f"{node.name}'s balance msat"] = balance

    def _balance(self, node: DemoNode) -> int:
        return int(node.tell("status")["lightning"]["balance_msat"])

    def _late_node(self, step: Step) -> None:
        """Carol comes late and receives the book."""
        self._ids["carol"] = self.carol.start()["identity"]
        self._wait_remaining(self.carol, 6 * BTC // 10)
        step.claims["carol is"] = self._ids["carol"]
        step.claims["remaining lots in Carol's book"] = 6 * BTC // 10

    def _second_hold(self, step: Step) -> None:
        """Carol takes 0.2 BTC of it and does not pay yet."""
        answer = self.carol.tell("order", "take", self._order_id, "0.2BTC", "--pay", "manual")
        self._second_id = answer["trades"][0]["trade_id"]
        self._wait_remaining(self.bob, 6 * BTC // 10, held=2 * BTC // 10)
        step.claims["trade"] = self._second_id

    def _kill_the_maker(self, step: Step) -> None:
        """Alice's node is killed with -9 and comes back with its order and its hold."""
        pid = self.alice.signal(signal.SIGKILL)

        def back() -> bool:
            status = self.alice.ask("status")
            return status is not None and status["pid"] != pid

        wait_for("alice is back", back, _START_S)
        orders = self.alice.tell("order", "list")["orders"]
        holds = self.alice.tell("hold", "list")["holds"]
        expect([one["order_id"] for one in orders] == [self._order_id], "the order is there")
        expect([one["trade_id"] for one in holds] == [self._second_id], "the hold is there")
        self._wait_live(self.carol, self.alice)
        step.claims["killed process"] = pid
        step.claims["held lots after the crash"] = holds[0]["quantity_lots"]

    def _second_settles(self, step: Step) -> None:
        """Carol pays, Alice sends, Carol receives."""
        self.carol.tell("trade", "pay", self._second_id)
        self._wait_state(self.alice, self._second_id, "base_done")
        self.alice.tell("trade", "sent", self._second_id, "--yes")
        self._wait_state(self.carol, self._second_id, "quote_sent")
        self.carol.tell("trade", "received", self._second_id, "--yes")
        for node in (self.alice, self.carol):
            self._wait_state(node, self._second_id, "settled")
        step.claims["settled trade"] = self._second_id

    def _nothing_is_lost(self, step: Step) -> None:
        """Every book shows 0.4 BTC, and no money was made or lost."""
        nodes = (self.alice, self.bob, self.carol)
        for node in nodes:
            self._wait_remaining(node, 4 * BTC // 10)
        total = sum(self._balance(node) for node in nodes)
        expect(total == 30 * BTC * MSAT_PER_LOT, "the balances add up to 30 BTC")
        step.claims["remaining lots in the end"] = 4 * BTC // 10
        step.claims["sum of balances msat"] = total


def expect(holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise StepFailedError with the claim where it does not hold."""
    if not holds:
        message = f"it does not hold that {claim}"
        raise StepFailedError(message)


def wait_for(claim: str, look: Callable[[], T | None], seconds: float) -> T:
    """Look until the answer is true; StepFailedError when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(_POLL_S)
    message = f"not within {seconds:g} s: {claim}"
    raise StepFailedError(message)


def run(*, fault: str | None = None, as_json: bool = False, keep: Path | None = None) -> int:
    """Play the story; exit code 0, or 1 naming the failed step."""
    console = Console(stderr=as_json, soft_wrap=True)
    root = keep or Path(tempfile.mkdtemp(prefix="zmqex-demo-"))
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    console.print(f"Play money only.  The nodes live in {root}", markup=False)
    story = Story(root, console, fault)
    try:
        done = story.run()
    finally:
        story.stop()
        if keep is None:
            shutil.rmtree(root, ignore_errors=True)
    if as_json:
        steps = [msgspec.to_builtins(step) for step in story.steps]
        print(json.dumps({"ok": done, "directory": str(root), "steps": steps}))  # noqa: T201
    if done:
        console.print("The story is complete: every claim above was checked.", markup=False)
        return 0
    console.print(f"Failed step: {story.steps[-1].name}", markup=False, style="bold red")
    return 1

"""A whole trade by the command line, each command of which may be killed and is then repeated.

The processes are forked from one that has loaded the command line already, since there are many.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.nodes import Node, pending
from tests.end_to_end.trade_story import LOTS, ORDER, Pair
from zmqex.cli.main import main
from zmqex.kernel.commands import ListOrders


class Typist:
    """Gives the commands; the one at which a crash plan is met dies and is given again."""

    def __init__(self, pair: Pair, whose: str, when: str) -> None:
        """Die at commits of the command's `own` node or of the `other` one."""
        self.pair = pair
        self.whose = whose
        self.when = when
        self.number = 1
        self.killed = 0
        self.trades: set[str] = set()
        home = pair.alice.home
        self._output = home.path / "typed.out"
        self._forks = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.typed", str(self._output)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=home.environment,
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def close(self) -> None:
        """Let the process go that all others are forked from."""
        self._forks.communicate()

    def trade(self) -> None:
        """Place, take, pay, sent, received, cancel; each is done once."""
        alice, bob = self.pair.alice, self.pair.bob
        self.give(alice, "order", "buy", "0.25BTC@1USD")
        (order_id,) = [one["order_id"] for one in alice.orders()]
        bob.wait_book(order_id, ORDER)
        self.give(bob, "order", "sell", "0.1BTC@1USD", "--ioc", "--pay", "manual")
        (trade_id,) = set(bob.trades()) - self.trades
        self.trades.add(trade_id)
        bob.wait_state(trade_id, "accepted")
        self.give(bob, "trade", "pay", trade_id, moved="paid already")
        alice.wait_state(trade_id, "base_done")
        self.give(alice, "trade", "sent", trade_id, "--yes", moved="is quote_sent")
        bob.wait_state(trade_id, "quote_sent")
        self.give(bob, "trade", "received", trade_id, "--yes", moved="is settled")
        for node, msat in ((alice, LOTS * 1_000), (bob, -LOTS * 1_000)):
            node.wait_state(trade_id, "settled")
            assert node.balance_msat() == 100 * LOTS * 1_000 + len(self.trades) * msat
            assert set(node.trades()) == self.trades
            assert _known_orders(node) == len(self.trades)
        self.give(alice, "order", "cancel", order_id, moved="it is closed (cancelled)")
        bob.wait_book(order_id, 0)

    def give(self, node: Node, *words: str, moved: str = "") -> None:
        """Give a command and die; again, it is done, or has been and says so.

        Who saw the answer to an order and died behind it does not give the order again.
        """
        orders = _known_orders(node)
        code, said = self._type(node, *words, dies=True)
        if code == -signal.SIGKILL:
            self.killed += 1
            if not moved and not pending(node) and _known_orders(node) > orders:
                return
            code, said = self._type(node, *words)
            assert moved or "was given before and got no answer" in said, said
        assert code == 0 or (moved and moved in said), (words, code, said)

    def _type(self, node: Node, *words: str, dies: bool = False) -> tuple[int, str]:
        victim = node
        if self.whose == "other":
            victim = self.pair.bob if node is self.pair.alice else self.pair.alice
        pid = self._ask(["--node", node.name, *words])
        if dies:
            self.pair.arm(victim, f"journal {self.when} {self.number} {pid}")
        code = self._ask(pid)
        self.pair.disarm(victim)
        return code, self._output.read_text()

    def _ask(self, question: object) -> int:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(question) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline())


def _known_orders(node: Node) -> int:
    return len(node.call(ListOrders(closed=True))["orders"])


def fork_for_ever() -> None:
    """Answer each line: words with the pid of a stopped process that will type them.

    Such a pid is answered with the exit code of the process, after it has been let go.
    """
    for module in ("orders", "trades"):
        importlib.import_module(f"zmqex.cli.{module}")
    for line in sys.stdin:
        question = json.loads(line)
        answer = _end(question) if isinstance(question, int) else _begin(question)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _begin(words: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        os.dup2(1, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        sys.argv[0] = "zmqex"
        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    os.waitpid(pid, os.WUNTRACED)
    return pid


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGCONT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    fork_for_ever()

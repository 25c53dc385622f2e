"""What the review desk costs fifty reviewers, with few reviews open and with many.

    python benchmarks/desk.py
    python benchmarks/desk.py --postgres    # starts one; needs Postgres' programs

Two ledgers, each behind a `bayeslora desk serve` of its own. In each round fifty people, who are
signed in, read the inbox (page and API), claim a review and decide it, all at once, at one desk and
then at the other; the order alternates. What was decided is filed anew after the round, so that
each desk keeps its number of open reviews. Client and servers share the machine's cores; beside the
time that clients wait stands the processor time that the server takes.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import psutil
import typer
from argon2 import PasswordHasher
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bayeslora_tool.desk import Ledger
from bayeslora_tool.desk.review import Question
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import review_request

LABELS = [f"label_{i}" for i in range(150)]
GROUPS = ("cards", "loans")
INBOX = ("inbox page", "inbox API")
WORDS = [
    "card",
    "lost",
    "money",
    "bank",
    "please",
    "help",
    "today",
    "hotel",
    "flight",
    "balance",
    "freeze",
    "stolen",
    "send",
]


@dataclass
class Site:
    """A served desk."""

    name: str
    n_open: int
    ledger: Ledger
    address: str
    server: psutil.Process
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    filed: int = 0
    waited: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0
    cpu: float = 0.0
    """Seconds of the server in rounds of reading alone."""
    reads: int = 0
    memory: list[float] = field(default_factory=list)

    def fill(self) -> None:
        """File reviews until as many are open as should be."""
        counts = self.ledger.counts()
        missing = self.n_open - counts["open"] - counts["claimed"]
        for start in range(0, missing, 500):
            some = range(self.filed, self.filed + min(500, missing - start))
            self.ledger.reconcile([question(i) for i in some])
            self.filed = some.stop

    async def sign_in(self, reviewers: int) -> None:
        for i in range(reviewers):
            who = f"reviewer {i}"
            token = self.ledger.people.add(who, "reviewer", [GROUPS[i % len(GROUPS)]])
            # The server drops a line on which nothing comes for five seconds.
            limits = httpx.Limits(keepalive_expiry=2.0)
            client = httpx.AsyncClient(base_url=self.address, timeout=60, limits=limits)
            answer = await client.post("/api/v1/session", json={"name": who, "token": token})
            secret = answer.raise_for_status().json()["secret"]
            client.headers["Authorization"] = f"Bearer {secret}"
            client.cookies.set("bayeslora-desk", secret)
            self.clients.append(client)

    async def timed(self, what: str, asked: Any) -> httpx.Response:
        began = time.perf_counter()
        answer: httpx.Response = await asked
        self.waited[what].append(time.perf_counter() - began)
        return answer

    async def read(self, client: httpx.AsyncClient) -> list[Any]:
        page = await self.timed("inbox page", client.get("/"))
        assert page.raise_for_status().text.count('class="row"') == 50
        listed = await self.timed("inbox API", client.get("/api/v1/reviews"))
        found: list[Any] = listed.raise_for_status().json()["reviews"]
        return found

    async def work(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        """Read, claim something, decide it."""
        waiting = [one["id"] for one in await self.read(client) if one["state"] == "open"]
        for name in rng.sample(waiting, len(waiting)):
            path = f"/api/v1/reviews/{name}"
            claimed = await self.timed("claim", client.post(f"{path}/claim"))
            if claimed.status_code == 409:  # somebody was quicker
                self.refused += 1
                continue
            claimed.raise_for_status()
            answer = {"answer": {"type": "approve"}}
            decided = await self.timed("decide", client.post(f"{path}/decision", json=answer))
            decided.raise_for_status()
            return

    async def round(self, rng: random.Random) -> None:
        before = sum(self.server.cpu_times()[:2])
        await asyncio.gather(*(self.read(client) for client in self.clients))
        self.cpu += sum(self.server.cpu_times()[:2]) - before
        self.reads += 2 * len(self.clients)
        await asyncio.gather(*(self.work(client, rng) for client in self.clients))
        self.memory.append(self.server.memory_info().rss / 2**20)


def question(i: int) -> Question:
    """What a gate over 150 labels asks."""
    rng = random.Random(i)
    text = f"request {i}: " + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(5, 40)))
    shares = np.sort(np.random.default_rng(i).dirichlet(np.full(len(LABELS), 0.05)))[::-1]
    probabilities = dict(zip(rng.sample(LABELS, 10), shares[:10].tolist(), strict=True))
    label, confidence = next(iter(probabilities.items()))
    prediction = Prediction(
        label=label,
        confidence=confidence,
        variance=rng.random() / 20,
        probabilities=probabilities,
        entropy=1.0,
        mutual_information=0.1,
        n_draws=0,
        estimator="linearized",
        seed=0,
        n_tokens=len(text.split()),
        truncated=False,
        novelty=rng.random(),
    ).to_dict()
    request = review_request(text=text, prediction=prediction, reason="Unsure.", labels=LABELS)
    return Question(
        graph="requests",
        thread=str(i),
        interrupt=str(i),
        request=request,
        schema=_schema(),
        tool="act_on_label",
        key=str(i),
        text=text,
        reason="Unsure.",
        prediction=prediction,
        policy="none",
    )


@cache
def _schema() -> dict[str, Any]:
    """The same for all: it names the labels, and takes its time to be made."""
    request = review_request(text="any", prediction=None, reason="Unsure.", labels=LABELS)
    schema: dict[str, Any] = TypeAdapter(answer_type("review", request)).json_schema()
    return schema


@contextmanager
def served(place: str, name: str, n_open: int, port: int, folder: Path) -> Iterator[Site]:
    ledger = Ledger(place)
    ledger.people.hasher = PasswordHasher(time_cost=1, memory_cost=1024)
    command = [sys.executable, "-m", "bayeslora_tool", "desk", "serve", "--ledger", place]
    log = folder / f"{port}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=said, stderr=subprocess.STDOUT
        )
    try:
        site = Site(name, n_open, ledger, f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        site.fill()
        ends = time.monotonic() + 60
        while True:
            try:
                httpx.get(site.address)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}") from None
                time.sleep(0.1)
        yield site
    finally:
        process.terminate()
        process.wait(30)
        ledger.close()


async def measure(sites: list[Site], rounds: int, reviewers: int) -> None:
    for site in sites:
        await site.sign_in(reviewers)
    rng = random.Random(0)
    for i in track(range(rounds + 1), "rounds", transient=True):
        for site in sites if i % 2 else sites[::-1]:
            await site.round(rng)
            site.fill()
        if i == 0:  # warm now
            for site in sites:
                site.waited.clear()
                site.cpu, site.reads, site.refused = 0.0, 0, 0
    for site in sites:
        for client in site.clients:
            await client.aclose()


def show(console: Console, sites: list[Site], database: str) -> bool:
    table = Table("database", "open", "what", "n", "median ms", "p95 ms", "p95 / median", box=None)
    fine = True
    for site in sites:
        for what, seconds in site.waited.items():
            median, p95 = 1000 * np.quantile(seconds, [0.5, 0.95])
            row = f"{median:.1f}", f"{p95:.1f}", f"{p95 / median:.2f}"
            table.add_row(database, f"{site.n_open:,}", what, str(len(seconds)), *row)
            fine &= what not in INBOX or p95 <= 5 * median
    console.print(table)
    few, many = sites
    for what in INBOX:
        ratio = np.median(many.waited[what]) / np.median(few.waited[what])
        fine &= bool(ratio <= 1.5)
        console.print(
            f"{what}: {many.n_open:,} open cost {ratio:.2f} times as much as {few.n_open}"
        )
    cost = [1000 * site.cpu / site.reads for site in sites]
    fine &= cost[1] <= 1.5 * cost[0]
    console.print(
        f"processor time of the server for one reading: {cost[0]:.1f} ms and {cost[1]:.1f} ms, "
        f"{cost[1] / cost[0]:.2f} times as much"
    )
    for site in sites:
        console.print(
            f"{site.n_open:,} open: server holds {site.memory[0]:.0f} MiB after the first round, "
            f"{site.memory[-1]:.0f} after the last; {site.refused} claims came second"
        )
    return fine


def main(
    postgres: Annotated[bool, typer.Option(help="In Postgres, not SQLite.")] = False,
    many: Annotated[int, typer.Option(help="Open reviews at the second desk.")] = 10_000,
    rounds: Annotated[int, typer.Option()] = 20,
    reviewers: Annotated[int, typer.Option()] = 50,
) -> None:
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        places = [str(folder / f"{name}.sqlite") for name in ("few", "many")]
        if postgres:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from tests.desk.postgres import Postgres

            server = Postgres()
            stack.callback(server.close)
            places = [server.database() for _ in places]
        sites = [
            stack.enter_context(served(place, name, n_open, port, folder))
            for place, name, n_open, port in zip(
                places, ("few", "many"), (2 * reviewers, many), (8351, 8352), strict=True
            )
        ]
        asyncio.run(measure(sites, rounds, reviewers))
        fine = show(console, sites, "Postgres" if postgres else "SQLite")
        damages = [damage for site in sites for damage in site.ledger.verify()]
    console.print(f"the chains verify: {not damages}; within the bounds: {fine}")
    raise typer.Exit(not fine or bool(damages))


if __name__ == "__main__":
    typer.run(main)

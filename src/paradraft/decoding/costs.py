"""What the parts of a round cost on this machine: measured once for a pair of models, kept on disk.

Only shapes matter, so the measurement takes random tokens behind a text of CONTEXT tokens that holds nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..drafters import Drafter
from ..errors import UserError
from ..files import write_text
from ..models import Target
from ..models.gguf import cache_directory
from .acceptance import accept, accept_greedy
from .draft import LATER, Draft, Drafting, Noise, reach
from .sampling import Sampling
from .timing import seconds_of
from .tree import behind_root

log = logging.getLogger(__name__)

FORMAT = 3  # of the file on disk and of what is measured
CONTEXT = 256  # tokens of the text in front, as far as the target's context allows
USUAL = 4  # tokens that are verified of a row which drafts, for what padding costs
SOME = 2  # tokens that an ordinary round brings
ROWS = (1, 4, 16, 64)
REPEATS = 5
TURNS = 40  # of a tree and a chain, at most
ENOUGH = 1.0  # seconds for the figures of one number of rows; of longer drafts some are then extrapolated
Array = NDArray[np.float64]


@dataclass(frozen=True)
class RowCosts:
    """Seconds for one number of rows: `verify` and `draft` of 0 to N tokens, `catch_up` of a token in one row.

    growing, branching: of drafting a tree and of verifying it, beyond a chain of as many tokens. padding: of a place in
    a packed step that holds no token.
    """

    verify: list[float]
    draft: list[float]
    catch_up: float
    growing: float = 0.0
    branching: float = 0.0
    padding: float = 0.0


class MeasuredCosts:
    """Costs that are measured when they are first asked for: of 1, 4, 16 and 64 rows, as far as so many are decoded.

    Other numbers of rows are interpolated. Chains of at most `most` tokens, or trees of at most `tree` nodes that go so
    deep.
    """

    def __init__(self, target: Target, drafter: Drafter, most: int, tree: int | None = None) -> None:
        self.target, self.drafter, self.most, self.tree = target, drafter, most, tree
        self._keys: dict[tuple[str, int, bool], str] = {}
        self._known: dict[str, dict[int, RowCosts]] = {}
        self._now: dict[int, RowCosts] = {}

    @property
    def catch_up(self) -> float:
        return max(costs.catch_up for costs in self._now.values())

    def prepare(self, rows: int, sampled: bool) -> None:
        asked = self.drafter.mode, torch.get_num_threads(), sampled
        if asked not in self._keys:
            self._keys[asked] = identity(self.target, self.drafter, self.most, sampled, self.tree)
        key = self._keys[asked]
        if key not in self._known:
            self._known[key] = read_costs(cost_path(key))
        self._now = self._known[key]
        missing = [n for below, n in zip((0, *ROWS), ROWS, strict=False) if below < rows and n not in self._now]
        if missing:
            started = time.perf_counter()
            for n in missing:
                self._now[n] = measure_costs(self.target, self.drafter, n, self.most, sampled, self.tree)
            write_costs(cost_path(key), self._now)
            log.info("measured what drafting costs here in %.1f s: %s", time.perf_counter() - started, cost_path(key))

    def forget(self) -> None:
        """`prepare` measures again, and replaces the file."""
        log.info("rounds are far quicker than when their costs were measured; these are measured again")
        self._now.clear()

    def verify(self, rows: int) -> Array:
        found: Array = self._at(np.array([rows]), {n: costs.verify for n, costs in self._now.items()})[0]
        return found

    def draft(self, rows: int) -> Array:
        return self._at(np.arange(1, rows + 1), {n: costs.draft for n, costs in self._now.items()})

    def padding(self, rows: int) -> float | None:
        if not self.target.packs:
            return None
        return float(self._at(np.array([rows]), {n: [costs.padding] for n, costs in self._now.items()})[0, 0])

    def beyond_chains(self, rows: int) -> tuple[float, float]:
        found = {n: [costs.growing, costs.branching] for n, costs in self._now.items()}
        growing, branching = self._at(np.array([rows]), found)[0].tolist()
        return growing, branching

    def _at(self, rows: NDArray[np.int64], known: dict[int, list[float]]) -> Array:
        """[len(rows), K+1] on straight lines between the measured numbers of rows, and beyond the last."""
        counts = np.array(sorted(known))
        values = np.array([known[int(n)] for n in counts])
        if len(counts) == 1:
            return values.repeat(len(rows), 0)
        upper = np.searchsorted(counts, rows).clip(1, len(counts) - 1)
        share = ((rows - counts[upper - 1]) / (counts[upper] - counts[upper - 1]))[:, None]
        found: Array = (1 - share) * values[upper - 1] + share * values[upper]
        return found


# --- on disk ------------------------------------------------------------------------------------------------------


def identity(target: Target, drafter: Drafter, most: int, sampled: bool, tree: int | None = None) -> str:
    """16 hexadecimal digits over all that costs depend on: hardware, versions, threads, types and shapes."""
    facts = [
        *(FORMAT, device_name(target.device), torch.__version__, torch.get_num_threads()),
        *(target.lean is None, target.graphs is None, getattr(drafter, "lean", None) is None, tree),
        *(drafter.kind, drafter.mode, most, sampled),
        *(drafter.head_rows is None, target.config.to_json_string(use_diff=False)),
        *(drafter.vocabulary is None or len(drafter.vocabulary), repr(getattr(drafter, "config", None))),
        *((name, str(p.dtype), *p.shape) for m in (target.model, drafter) for name, p in m.named_parameters()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores" if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def cost_path(key: str) -> Path:
    return cache_directory() / "costs" / f"{key}.json"


def read_costs(path: Path) -> dict[int, RowCosts]:
    """What an earlier process measured, by rows; nothing if it is not there or damaged: then it is measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {int(rows): RowCosts(**costs) for rows, costs in found["rows"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s): the costs are measured again", path, error)
        return {}


def write_costs(path: Path, known: dict[int, RowCosts]) -> None:
    content: dict[str, Any] = {"rows": {rows: asdict(costs) for rows, costs in sorted(known.items())}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")
    except (OSError, UserError) as error:
        log.warning("%s cannot be written (%s): the next process measures the costs again", path, error)


# --- measuring ----------------------------------------------------------------------------------------------------


def measure_costs(
    target: Target, drafter: Drafter, rows: int, most: int, sampled: bool, tree: int | None = None
) -> RowCosts:
    """Time the parts of a round of so many rows for some draft lengths; the lengths between are interpolated."""
    deepest, most = most, tree or most
    context = max(1, min(CONTEXT, target.context_length - most - LATER - 2))
    bench = Bench(target, drafter, rows, sampled, context, deepest, tree)
    points = sorted({0, 1, most, *(2**n - 1 for n in range(1, 12) if 2**n - 1 < most)})
    seconds: dict[tuple[str, int], float] = {}
    with target.decoding():
        bench.verify(0)  # allocates
        for length in points if target.graphs is not None else ():  # the first two runs of a shape record its graph
            for warm_up in (bench.verify, bench.verify, bench.draft, bench.draft)[: 4 if length else 2]:
                warm_up(length)
        started = time.perf_counter()
        for _ in range(REPEATS):  # in passes: what else runs on the machine then slows all figures alike
            for length in points:
                if length > 1 and time.perf_counter() - started > ENOUGH:
                    break  # whether drafting pays at all hangs on the first two
                for part in ("verify", "draft") if length else ("verify",):
                    took = seconds_of(partial(getattr(bench, part), length), target.device)
                    seconds[part, length] = min(took, seconds.get((part, length), took))
        later = min(seconds_of(partial(bench.observe, LATER), target.device) for _ in range(2))
        growing, branching = bench.beyond_chains() if tree else (0.0, 0.0)
    verify = {length: value for (part, length), value in seconds.items() if part == "verify"}
    draft = {length: value for (part, length), value in seconds.items() if part == "draft"}
    drafts = [0.0, *over_lengths(draft, most)[1:]]
    verified = over_lengths(verify, most)
    return RowCosts(verified, drafts, later / (rows * LATER), growing, branching, padding_of(bench, verified))


def over_lengths(seconds: dict[int, float], most: int) -> list[float]:
    """Seconds of 0 to `most` tokens, on straight lines between the measured numbers and beyond them; never falling.

    What else runs can only make a figure too large, so fewer tokens take at most as long as more of them did.
    """
    x, y = np.array(list(seconds), dtype=float), np.array(list(seconds.values()))
    y = np.minimum.accumulate(y[::-1])[::-1]
    wanted = np.arange(most + 1, dtype=float)
    found = np.interp(wanted, x, y)
    if len(x) > 1:
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        found = np.where(wanted > x[-1], y[-1] + slope * (wanted - x[-1]), found)
    return [float(value) for value in found]


def padding_of(bench: Bench, verify: list[float]) -> float:
    """Seconds of a place without a token, from a step in which one row alone has drafted as much as is usual."""
    rows, longest = bench.rows, min(USUAL, len(verify) - 1)
    if rows == 1 or not bench.target.packs:
        return 0.0
    with bench.target.decoding():
        uneven = partial(bench.judge, longest, None, [longest] + [0] * (rows - 1))
        took = min(seconds_of(uneven, bench.target.device) for _ in range(REPEATS))
    tokens = np.interp(longest / rows, np.arange(len(verify)), verify)
    return max(0.0, float(took - tokens)) / ((rows - 1) * longest)


class Bench:
    """A round in parts, as the engine runs it, on slots that always hold `context` tokens.

    Drafts are chains of at most `deepest` tokens, or trees of at most `tree` nodes that go so deep.
    """

    def __init__(
        self, target: Target, drafter: Drafter, rows: int, sampled: bool, context: int, deepest: int, tree: int | None
    ) -> None:
        self.target, self.rows, self.context, self.deepest, self.tree = target, rows, context, deepest, tree
        self.slots = list(range(rows))
        self.samplings = [Sampling(1.0 if sampled else 0.0)] * rows
        capacity = context + (tree or deepest) + 1
        self.noise = torch.full((rows, capacity), 0.5, dtype=torch.float64, device=target.device) if sampled else None
        self.cache = target.new_slots(rows, capacity)
        self.drafting = Drafting(drafter, rows, capacity, (tree or 0) * deepest)
        self.anchors = torch.ones(rows, dtype=torch.long, device=target.device)
        width = len(drafter.feature_layers) * target.hidden_size
        self.features = torch.zeros(rows, LATER, width, dtype=target.dtype, device=target.device)

    def tokens(self, count: int) -> Tensor:
        return self.anchors[:, None].expand(-1, count)

    def verify(self, length: int) -> None:
        """A tree costs the same whatever its shape is: here each node follows the one before."""
        parents = torch.arange(-1, length - 1, device=self.anchors.device).expand(self.rows, -1)
        self.judge(length, parents if self.tree is not None and length else None)

    def beyond_chains(self) -> tuple[float, float]:
        """Seconds that drafting and verifying a tree take beyond a chain of as many tokens.

        Small differences of large figures: measured in turns, as often as there is time for.
        """
        length = min(self.deepest, self.tree or 0)
        parts = (
            partial(self.draft_chain, length),
            partial(self.draft, length),
            partial(self.judge, length, None),
            partial(self.verify, length),
        )
        for warm_up in (*parts, *parts) if self.target.graphs is not None else ():
            warm_up()
        runs: list[list[float]] = []
        started = time.perf_counter()
        while len(runs) < TURNS and (not runs or time.perf_counter() - started < ENOUGH):
            runs.append([seconds_of(part, self.target.device) for part in parts])
        drafted, grown, judged, branched = (min(column) for column in zip(*runs, strict=True))
        return max(0.0, grown - drafted), max(0.0, branched - judged)

    def judge(self, length: int, parents: Tensor | None, lengths: list[int] | None = None) -> None:
        """`lengths`: of the rows' drafts, `length` of all unless told."""
        lengths = [length] * self.rows if lengths is None else lengths
        self.cache.lengths[:] = self.context
        layers = self.drafting.drafter.feature_layers
        seen = None if parents is None else behind_root(parents)
        counts = [1 + n for n in lengths]
        output = self.target.forward(self.tokens(1 + length), self.cache, layers, self.slots, seen, counts=counts)
        drafted = Draft(self.tokens(length), torch.tensor(lengths), parents)
        noise = None if self.noise is None else Noise(self.noise[:, :length], self.noise[:, 0])
        rule = "chain" if parents is None else "tree_residual"
        accepted = (
            accept_greedy(drafted, output.choices)
            if noise is None
            else accept(rule, drafted, output.logits, self.samplings, noise)
        )
        reach(drafted).cpu()
        kept = accepted.counts.cpu() + 1
        self.cache.commit(kept, accepted.shortened(int(kept.max())).path)

    def draft(self, length: int) -> None:
        if self.tree is None:
            self.draft_chain(length)
            return
        self.observe(SOME)
        depths, nodes = [min(length, self.deepest)] * self.rows, [length] * self.rows
        self.drafting.tree(self.slots, self.anchors, depths, self.samplings, nodes).tokens.cpu()

    def draft_chain(self, length: int) -> None:
        self.observe(SOME)
        noise = None if self.noise is None else self.noise[:, :length]
        self.drafting.chain(self.slots, self.anchors, [length] * self.rows, self.samplings, noise).tokens.cpu()

    def observe(self, count: int) -> None:
        state = self.drafting.state
        state.cache.lengths[:], state.counts[:] = self.context, 0
        counts = torch.full((self.rows,), count)
        self.drafting.drafter.observe(state, self.slots, self.features[:, :count], self.tokens(count), counts)

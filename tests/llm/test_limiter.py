"""Do all workers together keep an endpoint's limit, use it up, and hold back when it asks them to?"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from coral_backend.exceptions import SettingsError
from coral_backend.llm.base import asked, make_annotator
from coral_backend.llm.bucket import (
    AHEAD_S,
    FILL,
    LAG_S,
    LocalBucket,
    Rates,
    RedisBucket,
    Starts,
    bucket_name,
    local_bucket,
)
from coral_backend.llm.limiter import Estimate, Limiter, Window
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.retry import Pace
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings
from coral_backend.types import Answer, LabelSpace, Sample
from strategies.tasks import load
from tests.scripted_openai import ScriptedOpenAI, status
from tests.scripted_server import Window as StrictWindow

SPACE = LabelSpace("Choices", "sentiment", "text", "text", ("positive", "negative"))


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 5_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds

    def pace(self) -> Pace:
        return Pace(clock=self, wall=self, sleep=self.sleep)


def starts(bucket: LocalBucket, clock: Clock, costs: Sequence[int], idle: Sequence[float] = ()) -> list[float]:
    """Return when requests of these costs start, one after the other; before each the asker may be idle."""
    found = []

    async def ask() -> None:
        for i, cost in enumerate(costs):
            clock.now += idle[i] if i < len(idle) else 0.0
            while not (answer := await bucket.take([cost], 0)).waits:
                clock.now += answer.again_s
            clock.now += answer.waits[0]
            found.append(clock.now)

    asyncio.run(ask())
    return found


# --- the bucket ----------------------------------------------------------------------------------------------------


@given(
    rate=st.integers(1, 6_000),
    idle=st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.1, 1.0, 20.0]), min_size=40, max_size=40),
)
def test_no_minute_has_more_requests_than_allowed(rate: int, idle: list[float]) -> None:
    clock = Clock()
    times = starts(LocalBucket(Rates(requests=rate), clock), clock, [1] * 40, idle)
    assert times == sorted(times)
    strict = StrictWindow(math.ceil(rate + LAG_S * rate / 60), 60.0)
    for at in times:
        assert strict.room(1, at)
        strict.take(1, at)


def test_a_steady_asker_gets_nearly_all_of_the_limit() -> None:
    clock = Clock()
    times = starts(LocalBucket(Rates(requests=3_000), clock), clock, [1] * 9_000)
    assert 3_000 * 0.97 <= 9_000 / (times[-1] - times[0]) * 60 <= 3_000
    strict = StrictWindow(3_000, 60.0)
    for at in times:
        assert strict.room(1, at)
        strict.take(1, at)


def test_tokens_are_a_limit_too_and_large_requests_wait_longer() -> None:
    clock = Clock()
    times = starts(LocalBucket(Rates(tokens=60_000), clock), clock, [1_000, 4_000, 500])
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # 60,000 a minute are 1,000 a second; a fifth of a second may be made up for.
    assert gaps == pytest.approx([1 / FILL - LAG_S, 4 / FILL], abs=1e-6)


def test_what_was_reserved_too_much_comes_back() -> None:
    clock = Clock()
    bucket = LocalBucket(Rates(tokens=60_000), clock)

    async def story() -> Starts:
        await bucket.take([10_000], 0)
        return await bucket.take([1], -9_900)

    assert asyncio.run(story()).waits[0] < 0.5


def test_starts_are_given_out_a_little_ahead_only() -> None:
    clock = Clock()
    bucket = LocalBucket(Rates(requests=600), clock)  # ten a second
    answer = asyncio.run(bucket.take([1] * 50, 0))
    assert len(answer.waits) == pytest.approx((AHEAD_S + LAG_S) * 10, abs=2)
    assert max(answer.waits) <= AHEAD_S
    assert 0 < answer.again_s < 0.2


def test_a_closed_bucket_gives_nothing_until_it_opens() -> None:
    clock = Clock()
    bucket = LocalBucket(Rates(), clock)

    async def story() -> None:
        await bucket.close_for(30.0)
        await bucket.close_for(5.0)
        assert await bucket.take([1, 1], 0) == Starts([], 30.0 - AHEAD_S)
        clock.now += 30.0
        assert (await bucket.take([1, 1], 0)).waits == [0.0, 0.0]

    asyncio.run(story())


# --- shared through Redis ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def test_two_workers_share_what_redis_gives_out(server: RedisServer) -> None:
    rates = Rates(requests=600)

    async def story() -> list[float]:
        buckets = [RedisBucket(server.url, "coral:llm:two", rates, LocalBucket(rates)) for _ in range(2)]
        try:
            first, second = [await bucket.take([1] * 4, 0) for bucket in buckets]
        finally:
            for bucket in buckets:
                await bucket.close()
        return first.waits + second.waits

    waits = asyncio.run(story())
    each = 60 / (600 * FILL)
    # One row of starts, a tenth of a second apart, the first of them as far back as may be made up for.
    assert waits[-1] == pytest.approx((len(waits) - 1) * each - LAG_S, abs=0.1)
    assert waits == sorted(waits)
    assert max(waits) <= AHEAD_S


def test_redis_and_this_process_give_out_the_same(server: RedisServer) -> None:
    rates = Rates(requests=900, tokens=100_000)
    costs = [200, 50, 700, 10, 10, 300, 1_000, 20]

    async def story() -> tuple[Starts, Starts]:
        shared = RedisBucket(server.url, "coral:llm:same", rates, LocalBucket(rates))
        try:
            return await shared.take(costs, 5), await LocalBucket(rates).take(costs, 5)
        finally:
            await shared.close()

    theirs, ours = asyncio.run(story())
    assert theirs.waits == pytest.approx(ours.waits, abs=2e-3)
    assert theirs.again_s == pytest.approx(ours.again_s, abs=2e-3)


def test_who_is_told_to_wait_closes_the_bucket_for_all(server: RedisServer) -> None:
    async def story() -> Starts:
        told, other = (RedisBucket(server.url, "coral:llm:closed", Rates(), LocalBucket(Rates())) for _ in range(2))
        try:
            await told.close_for(30.0)
            return await other.take([1], 0)
        finally:
            await told.close()
            await other.close()

    answer = asyncio.run(story())
    assert answer.waits == []
    assert 28.0 < answer.again_s <= 30.0


def test_without_an_answering_redis_each_worker_keeps_to_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rates = Rates(requests=600)

    async def story() -> list[Starts]:
        bucket = RedisBucket(f"unix://{tmp_path}/nobody.sock", "coral:llm:away", rates, LocalBucket(rates))
        try:
            return [await bucket.take([1] * 9, 0) for _ in range(2)]
        finally:
            await bucket.close()

    first, second = asyncio.run(story())
    assert first.waits
    assert len(second.waits) < len(first.waits), "the second asks the same bucket"
    assert len([r for r in caplog.records if "not shared" in r.message]) == 1


def test_the_settings_limit_is_kept_in_the_redis_of_model_dir(server: RedisServer) -> None:
    samples = [Sample(i, f"text {i}") for i in range(6)]
    prompt = Prompt.build(load("sentiment"), SPACE, [])
    with ScriptedOpenAI() as endpoint:
        environ = {
            "MODEL_DIR": str(server.data_dir),
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": "canary-7f3a91c2d4",
            "CORAL_LLM_RPM": "600000",
        }
        endpoint.script.append(status(429, {"Retry-After-Ms": "20"}))
        answers: list[Answer] = []
        make_annotator(Settings.load(environ)).annotate(
            asked(samples, prompt), lambda _, answer: answers.append(answer), lambda: None
        )
        name = bucket_name(endpoint.base_url, "canary-7f3a91c2d4", "gpt-4o-mini")
    with closing(redis.Redis.from_url(server.url)) as client:
        kept = client.hgetall(name)
        everything = str(client.keys())
    assert [answer.label for answer in answers] == ["positive"] * 6
    assert set(kept) == {b"request", b"token", b"open"}
    assert "canary" not in everything


def test_an_address_that_is_none_is_said_without_showing_it() -> None:
    settings = Settings.load({"REDIS_URL": "http://:secret-1@host", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        make_annotator(settings).annotate([], lambda *_: None, lambda: None)
    assert "secret" not in str(caught.value)


def test_a_bucket_is_named_after_endpoint_key_and_model_and_tells_none() -> None:
    names = {bucket_name(u, k, m) for u in ("http://a/v1", "http://b/v1") for k in ("secret-1", "k2") for m in "xy"}
    assert len(names) == 8
    assert not any("secret" in name for name in names)
    assert local_bucket("n", Rates(5)) is local_bucket("n", Rates(5))
    assert local_bucket("n", Rates(5)) is not local_bucket("n", Rates(6))


# --- the limiter ---------------------------------------------------------------------------------------------------


def run_limited(rates: Rates, clock: Clock, slots: int, each: int) -> list[float]:
    """Return when each of `slots` slots sent each of its requests."""
    sent: list[float] = []

    async def slot(limiter: Limiter) -> None:
        for _ in range(each):
            await limiter.start(10)
            sent.append(clock.now)

    async def story() -> None:
        limiter = Limiter(LocalBucket(rates, clock), clock.pace(), limited=rates.limited)
        async with limiter.running():
            await asyncio.gather(*(slot(limiter) for _ in range(slots)))

    asyncio.run(story())
    return sent


def test_slots_take_their_turns_at_the_rate() -> None:
    clock = Clock()
    sent = run_limited(Rates(requests=600), clock, slots=8, each=10)
    assert len(sent) == 80
    assert max(sent) - min(sent) >= 79 * 60 / (600 * FILL) - LAG_S - 0.01


def test_without_a_limit_nobody_waits() -> None:
    clock = Clock()
    assert set(run_limited(Rates(), clock, slots=8, each=10)) == {5_000.0}


@pytest.mark.parametrize("rates", [Rates(), Rates(requests=60_000)])
def test_a_closed_limiter_holds_everybody_back(rates: Rates) -> None:
    clock = Clock()

    async def story() -> list[float]:
        limiter = Limiter(LocalBucket(rates, clock), clock.pace(), limited=rates.limited)
        sent: list[float] = []

        async def slot() -> None:
            await limiter.start(1)
            sent.append(clock.now)

        async with limiter.running():
            await limiter.start(1)
            await limiter.close_for(40.0)
            await asyncio.gather(*(slot() for _ in range(5)))
        return sent

    assert all(at >= 5_040.0 - 1e-6 for at in asyncio.run(story()))


def test_what_another_worker_was_told_holds_back_all_slots() -> None:
    clock = Clock()
    bucket = LocalBucket(Rates(), clock)

    async def story() -> list[float]:
        limiter = Limiter(bucket, clock.pace(), limited=False)
        sent: list[float] = []

        async def slot() -> None:
            await limiter.start(1)
            sent.append(clock.now)

        async with limiter.running():
            await bucket.close_for(40.0)  # by the other, not through this limiter
            await asyncio.gather(*(slot() for _ in range(5)))
        return sent

    sent = asyncio.run(story())
    # Those who passed before the first look came back were on their way already.
    assert max(sent) >= 5_040.0 - AHEAD_S


def test_a_bucket_that_fails_ends_the_waiting() -> None:
    class Failing(LocalBucket):
        async def take(self, costs: Sequence[int], used_more: int) -> Starts:
            raise ValueError("nonsense from Redis")

    async def story() -> None:
        limiter = Limiter(Failing(Rates(5)), Pace(), limited=True)
        async with limiter.running():
            for _ in range(2):
                with pytest.raises(ValueError, match="nonsense"):
                    await limiter.start(1)

    asyncio.run(story())


# --- the window ----------------------------------------------------------------------------------------------------


def test_window_halves_once_for_what_was_on_its_way_together_and_grows_by_one_a_window() -> None:
    clock = Clock()
    window = Window(16, clock)
    sent_at = clock.now
    clock.now += 0.2
    for _ in range(16):
        window.refused(sent_at)
    assert window.size == 8
    clock.now += 0.2
    window.refused(clock.now)
    assert window.size == 4
    for _ in range(4):
        window.went_well()
    assert window.size == pytest.approx(5, abs=0.2)
    for _ in range(1_000):
        window.went_well()
    assert window.size == 16


def test_window_never_closes() -> None:
    clock = Clock()
    window = Window(3, clock)
    for _ in range(10):
        clock.now += 1
        window.refused(clock.now)
    assert window.size == 1


def test_window_bounds_what_is_in_flight() -> None:
    window = Window(8, lambda: 0.0)
    in_flight = most = 0

    async def one() -> None:
        nonlocal in_flight, most
        async with window:
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0)
            in_flight -= 1

    async def story() -> None:
        window.refused(0.0)
        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(story())
    assert most == 4


def test_estimate_learns_from_the_endpoints_own_count() -> None:
    estimate = Estimate(max_tokens=64)
    assert estimate.tokens(300) == 164
    estimate.learn(300, 0, 0)
    assert estimate.tokens(300) == 164
    estimate.learn(300, 75, 5)
    assert estimate.tokens(300) == 80
    for _ in range(200):
        estimate.learn(300, 150, 9)
    assert estimate.tokens(300) == pytest.approx(159, abs=1)

"""One client in several processes, threads and event loops: each answer belongs to its image.

The images differ in width, which answers report.
"""

import asyncio
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from foursight import AsyncClient, Client, InvalidAnswer
from tests import twins
from tests.photos import encoded
from tests.scripted import Asked, Reply, Scripted
from tests.test_client_protocol import GOOD, PHOTO

PHOTOS = {width: encoded(Image.new("RGB", (width, 60), (width, 0, 0))) for width in range(40, 80)}
# Inherited by forked processes; arguments would be pickled.
shared: dict[str, Any] = {}


def ask(client: Client, widths: list[int]) -> list[int]:
    return [client.classify(PHOTOS[width]).image.width for width in widths]


def ask_in_a_loop(client: AsyncClient, widths: list[int]) -> list[int]:
    async def widths_of_answers() -> list[int]:
        answers = await asyncio.gather(*(client.classify(PHOTOS[width]) for width in widths))
        return [answer.image.width for answer in answers]

    return asyncio.run(widths_of_answers())


def ask_inherited(widths: list[int]) -> list[int]:
    return ask(shared["client"], widths) + ask_in_a_loop(shared["async client"], widths)


def close_inherited() -> None:
    ask(shared["client"], [40])
    shared["client"].close()


def shares(count: int) -> list[list[int]]:
    return [list(PHOTOS)[number::count] for number in range(count)]


def test_forked_processes_get_their_own_answers(server: str) -> None:
    shared.update({"client": Client(server), "async client": AsyncClient(server)})
    # Both clients have connections before the fork.
    assert ask_inherited([40]) == [40, 40]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(4, mp_context=fork) as pool:
        answers = pool.map(ask_inherited, shares(4))
        # The parent asks at the same time.
        assert ask_inherited(list(PHOTOS)) == [*PHOTOS, *PHOTOS]
        assert list(answers) == [share * 2 for share in shares(4)]


def test_a_forked_process_neither_uses_nor_closes_the_connections_of_its_parent() -> None:
    with Scripted(lambda _: GOOD) as server, Client(server.url) as client:
        shared["client"] = client
        ask(client, [40])
        child = multiprocessing.get_context("fork").Process(target=close_inherited)
        child.start()
        child.join()
        ask(client, [40])
        assert (child.exitcode, len(server.asked), server.connections) == (0, 3, 2)


@pytest.mark.parametrize(("kind", "function"), [(Client, ask), (AsyncClient, ask_in_a_loop)])
def test_a_client_is_passed_to_another_process(server: str, kind: type, function: Callable[..., list[int]]) -> None:
    client = kind(server, api_key="secret", timeout=30, retries=2)
    assert function(client, [40]) == [40]
    copy = pickle.loads(pickle.dumps(client))
    assert copy.__reduce__() == client.__reduce__() == (kind, (server, "secret", 30, 2))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(function, client, [41, 42]).result() == [41, 42]


def test_threads_share_a_client(server: str) -> None:
    with Client(server) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [client] * 8, shares(8))) == shares(8)


def test_event_loops_share_a_client_one_after_another_and_in_threads(server: str) -> None:
    client = AsyncClient(server)
    for share in shares(4):
        assert ask_in_a_loop(client, share) == share
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask_in_a_loop, [client] * 4, shares(4))) == shares(4)
    # The connections of loops that have ended are not kept.
    assert len(client._connections._pools) <= 4


@pytest.mark.parametrize("kind", twins.KINDS)
def test_the_response_to_another_request_is_an_error(kind: str) -> None:
    def wrong(asked: Asked) -> Reply:
        mine = asked.headers["X-Request-ID"]
        return Reply(GOOD.body, headers={"X-Request-ID": mine[:-4] + "beef"})

    with Scripted(wrong) as server, twins.make(kind, server.url) as asking:
        with pytest.raises(InvalidAnswer, match="another request"):
            asking.classify(PHOTO)
        assert len(server.asked) == 1


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_proxy_may_replace_the_request_id(kind: str) -> None:
    reply = Reply(GOOD.body, headers={"X-Request-ID": "7f3a-of-the-proxy"})
    with Scripted(lambda _: reply) as server, twins.make(kind, server.url) as asking:
        assert asking.classify(PHOTO).request_id == "7f3a-of-the-proxy"


def test_a_closed_client_is_not_used_again() -> None:
    client = Client("http://127.0.0.1:9")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.classify(PHOTO)

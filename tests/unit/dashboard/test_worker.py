"""The process that plans: asked one after the other, ended when it takes too long, when it is idle, and with the gateway."""

import asyncio
import os

from headrace.dashboard.worker import BURST, MOST_WAITING, Task, Worker

ECHO = """
import json, sys, time, os
for line in sys.stdin:
    text = json.loads(line)["text"]
    if text == "die": sys.exit(1)
    if text == "hang": time.sleep(60)
    if text == "slow": time.sleep(0.3)
    if text == "babble": print("no JSON", flush=True); continue
    print(json.dumps({"verdict": "fits", "headline": text, "said": str(os.getpid())}), flush=True)
"""
PROGRAM = ("-c", ECHO)


def ask(text: str) -> Task:
    return Task(text, None, "")


def there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while there(pid):
            await asyncio.sleep(0.01)


async def test_questions_get_their_own_answers_from_one_process() -> None:
    worker = Worker(PROGRAM)
    found = await asyncio.gather(*(worker.answer(ask(str(number))) for number in range(20)))
    assert [one.headline for one in found] == [str(number) for number in range(20)]
    assert len({one.said for one in found}) == 1
    await worker.close()
    await gone(int(found[0].said))


async def test_what_takes_too_long_is_ended_and_the_next_question_is_answered() -> None:
    worker = Worker(PROGRAM, seconds=5)
    before = await worker.answer(ask("a"))
    worker._seconds = 0.2
    late = await worker.answer(ask("hang"))
    assert late.verdict == "wrong"
    assert "took longer than 0.2 s" in late.said
    worker._seconds = 20
    assert (await worker.answer(ask("b"))).headline == "b"
    await gone(int(before.said))
    await worker.close()


async def test_a_process_that_dies_or_babbles_is_replaced() -> None:
    worker = Worker(PROGRAM)
    for text in ("die", "babble"):
        assert "has ended" in (await worker.answer(ask(text))).said
        assert (await worker.answer(ask("b"))).headline == "b"
    await worker.close()


async def test_who_leaves_takes_no_answer_of_the_next() -> None:
    worker = Worker(PROGRAM)
    before = await worker.answer(ask("a"))
    left = asyncio.create_task(worker.answer(ask("slow")))
    while worker._running is None or worker._running.done():
        await asyncio.sleep(0)
    left.cancel()  # as when a form is changed again
    await asyncio.gather(left, return_exceptions=True)
    after = await worker.answer(ask("b"))
    assert (after.headline, after.said) == ("b", before.said)  # and the process goes on
    await worker.close()


async def test_it_ends_when_it_is_idle() -> None:
    worker = Worker(PROGRAM, idle=0.01)
    await gone(int((await worker.answer(ask("a"))).said))
    assert (await worker.answer(ask("b"))).headline == "b"
    await worker.close()


async def test_few_may_wait_and_few_may_come_at_once() -> None:
    worker = Worker(PROGRAM)
    assert [worker.takes() for _ in range(int(BURST))] == [True] * int(BURST)
    assert not worker.takes()
    crowded = Worker(PROGRAM)
    waiting = [asyncio.create_task(crowded.answer(ask("hang"))) for _ in range(MOST_WAITING + 1)]
    await asyncio.sleep(0)
    assert not crowded.takes()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await crowded.close()


async def test_the_real_one_answers_and_ends_with_whoever_started_it() -> None:
    worker = Worker()
    text = "models: {m: {source: 'hf:meta-llama/Meta-Llama-3.1-8B'}}"
    found = await worker.answer(Task(text, "A100-80GB", "users=4", offline=True))
    assert found.verdict == "fits"
    assert "models.nope" not in found.said
    broken = await worker.answer(Task("models: {m: {sauce: 'hf:a/b'}}", None, "", offline=True))
    assert "plan.yaml:1:14" in broken.said
    process = worker._process
    assert process
    assert process.stdin
    process.stdin.close()  # as when the gateway is killed
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    await worker.close()

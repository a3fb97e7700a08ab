"""The gateway's calls to the tasks' workers."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from foursight.serving.deadline import Deadline
from foursight.serving.errors import ApiError, unavailable
from foursight.serving.logs import logger

Value = TypeVar("Value")

TIMEOUT_S = 5.0
# A call to a task whose workers are all down waits for a new one. At this interval, the call checks that the task still
# has a worker.
CHECK_INTERVAL_S = 2.0


class TaskHandles:
    """Serve's handle of each task, fetched once."""

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle] = {}

    async def get(self, task: str) -> DeploymentHandle:
        """Return the handle of a task. Raises RayServeException if the task has not been deployed yet."""
        if task not in self._handles:
            # In a thread, because it waits for Serve's controller and would block the event loop.
            self._handles[task] = await asyncio.to_thread(serve.get_app_handle, task)
        return self._handles[task]

    async def broadcast(self, task: str, method: str, timeout_s: float = TIMEOUT_S) -> list[Any]:
        """Call a method of all workers of a task and return the results of those that answered in time."""
        try:
            response = (await self.get(task)).broadcast(method)
            results = await response.results_async(timeout_s=timeout_s, return_exceptions=True)
        except Exception:
            # Not deployed yet, restarting or hanging: in each case there is no result.
            return []
        return [result for result in results if not isinstance(result, BaseException)]

    async def call(
        self, task: str, deadline: Deadline, method: Callable[[DeploymentHandle], DeploymentResponse[Value]]
    ) -> Value:
        """Call a method of one worker of a task, and return its result.

        Raises ApiError (deadline_exceeded; unavailable: no worker answers).
        """
        try:
            return await self._wait(task, deadline, method(await self.get(task)))
        except ApiError:
            raise
        except Exception as error:
            logger.warning("no answer from the task %s: %s", task, type(error).__name__)
            raise unavailable(task) from None

    async def _wait(self, task: str, deadline: Deadline, call: DeploymentResponse[Value]) -> Value:
        answer: asyncio.Future[Value] = asyncio.ensure_future(call)
        try:
            while (left_s := deadline.remaining_s) > 0:
                done, _ = await asyncio.wait({answer}, timeout=min(left_s, CHECK_INTERVAL_S))
                if done:
                    return answer.result()
                if left_s > CHECK_INTERVAL_S and not await self.broadcast(task, "ping"):
                    raise unavailable(task)
            raise deadline.exceeded()
        finally:
            if not answer.done():
                answer.cancel()
                call.cancel()

"""The gateway's calls to the tasks' workers."""

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

TIMEOUT_S = 5.0


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

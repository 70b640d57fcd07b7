"""Boots a worker step by step, from its settings until it can run jobs.

On Runpod the steps run as the SDK's fitness checks: a failure marks the worker unhealthy by the
step's name, and `kontext.serverless.boot_failure` fails a waiting job. Elsewhere they run before
the job. torch is imported and the weights are loaded here, once.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kontext.address_policy import address_policy
from kontext.errors import BootError
from kontext.images.fetch import ImageFetcher
from kontext.inference.executor import GpuExecutor
from kontext.jobs.prefetch import Prefetch
from kontext.settings import Settings
from kontext.startup import artifact_store, garbage, imports, loading, stand_ins
from kontext.storage.bucket import Bucket
from kontext.worker import Job, PostProgress, Worker

if TYPE_CHECKING:
    from kontext.inference.editor import Editor
    from kontext.inference.model import Model
    from kontext.inference.safety import SafetyChecker

log = logging.getLogger("kontext")


class Boot:
    """The steps of one boot, and the parts of the worker that they make.

    Args:
        settings: The deployer's settings.
        post_progress: Tells Runpod how many steps of a job are done.

    Attributes:
        prefetch: The tracker that says when the next job is to be fetched.
        executor: The GPU thread.
    """

    def __init__(self, settings: Settings, post_progress: PostProgress) -> None:
        self._settings = settings
        self._post_progress = post_progress
        self.prefetch = Prefetch(settings.prefetch_seconds)
        self.executor = GpuExecutor(settings.stop_timeout_seconds)
        self._open_resources = ExitStack()
        self._editor: Editor | None = None
        self._checker: SafetyChecker | None = None
        self._bucket: Bucket | None = None
        self._worker: Worker | None = None
        self._imports: threading.Thread | None = None
        atexit.register(self._open_resources.close)

    @property
    def steps(self) -> list[Callable[[], None]]:
        """The steps in their order; each raises `BootError` if the worker must not start.

        The quick checks come first: the bucket takes a second, the weights take many.
        """
        return [
            self.pause_garbage_collection,
            self.start_imports,
            self.bucket,
            self.finish_imports,
            self.gpu,
            self.safety_checker,
            self.weights,
            self.resume_garbage_collection,
        ]

    async def run(self, job: Job) -> dict[str, Any]:
        """Run one job; this is Runpod's handler."""
        if self._worker is None:
            self._worker = self._assemble()
        return await self._worker.run(job)

    def pause_garbage_collection(self) -> None:
        """Do not search for garbage while the boot makes objects that stay."""
        garbage.pause()

    def start_imports(self) -> None:
        """Import torch on a thread, while the bucket answers."""
        self._imports = imports.start()

    def bucket(self) -> None:
        """Open the bucket and prove that it works."""
        settings = self._settings
        is_named = bool(settings.bucket_name or settings.bucket_endpoint_url)
        if stand_ins.should_replace("bucket", settings, is_named, "BUCKET_NAME is not set"):
            settings = stand_ins.start_embedded_bucket(self._open_resources)
        self._bucket = Bucket.from_settings(settings)
        self._bucket.check()

    def finish_imports(self) -> None:
        """Wait until torch is imported."""
        if self._imports is not None:
            self._imports.join()

    def gpu(self) -> None:
        """Refuse a machine whose GPU cannot hold the mode, unless the stand-in model runs."""
        if not stand_ins.should_replace_model(self._settings):
            plan = loading.plan(self._settings)
            log.info("mode %s: %s", plan.mode, plan)

    def safety_checker(self) -> None:
        """Load the safety checker; no worker starts without one."""
        self._checker = loading.load_safety_checker(self._settings)

    def weights(self) -> None:
        """Load the model, compile it and warm it up."""
        from kontext.inference.editor import Editor

        settings = self._settings
        loaded = loading.load_model(settings)
        self._editor = Editor(loaded, settings.true_cfg_scale)
        if not stand_ins.should_replace_model(settings):
            self._compile(loaded, self._editor)

    def resume_garbage_collection(self) -> None:
        """Search for garbage again, but not among the objects made at boot."""
        garbage.resume()

    def _compile(self, loaded: "Model", editor: "Editor") -> None:
        """Compile the transformer's blocks, or load what another worker compiled, and warm up.

        The stand-in on a laptop is not compiled, because that takes a minute of C++.
        """
        from kontext.inference import acceleration
        from kontext.inference.compile_cache import CompileCache, identity

        store = artifact_store.open_store(self._settings)
        cache = store and CompileCache(store, identity(loaded))
        acceleration.compile(loaded.pipeline)
        if cache:
            cache.load()
        began = time.monotonic()
        self.executor.run_blocking(lambda _: self._warm_up(editor))
        log.info("compiled and warmed up in %.1f s", time.monotonic() - began)
        if cache:
            cache.save()

    def _warm_up(self, editor: "Editor") -> None:
        """Make and check the usual edits; call it on the GPU thread."""
        from kontext.inference.warm_up import warm_up

        image = warm_up(editor)
        if self._checker is not None:
            self._checker.flags(image)

    def _assemble(self) -> Worker:
        if self._editor is None or self._checker is None or self._bucket is None:
            raise BootError("a job arrived before the worker was ready")
        return Worker(
            self._settings,
            ImageFetcher(address_policy(self._settings)),
            self._editor,
            self._checker,
            self._bucket,
            self._post_progress,
            self.executor,
            self.prefetch,
        )

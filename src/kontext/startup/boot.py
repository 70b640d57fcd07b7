"""From settings to a running worker: what must be there, what a stand-in may replace.

On Runpod the steps run as the SDK's fitness checks, so that a failure marks the worker unhealthy by
name, and `kontext.serverless.boot_failure` can tell a waiting caller; elsewhere they run before the
job. torch and the weights are imported and loaded here, once, before the first job.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.address_policy import address_policy
from kontext.errors import BootError
from kontext.images.fetch import ImageFetcher
from kontext.inference import mode, weights
from kontext.inference.executor import GpuExecutor
from kontext.inference.plan import Plan
from kontext.jobs.prefetch import Prefetch
from kontext.settings import Settings, StandIn
from kontext.startup import artifact_store, read_ahead
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.worker import Job, PostProgress, Worker

if TYPE_CHECKING:
    from kontext.inference.editor import Editor
    from kontext.inference.model import Model
    from kontext.inference.safety import SafetyChecker

log = logging.getLogger("kontext")


class Boot:
    """Collects a worker's collaborators, step by step.

    Args:
        settings: What the deployer set.
        post_progress: Tells Runpod how far a job is.
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
        self._imports = threading.Thread(
            target=read_ahead.import_model, name="imports", daemon=True
        )
        atexit.register(self._open_resources.close)

    @property
    def steps(self) -> list[Callable[[], None]]:
        """What must succeed, in this order, before the first job; each raises `BootError`.

        The quicker comes first: the bucket takes a second, the weights take many.
        """
        return [self.bucket, self.gpu, self.safety_checker, self.weights]

    async def run(self, job: Job) -> dict[str, Any]:
        """Run one job; Runpod's handler."""
        if self._worker is None:
            self._worker = self._assemble()
        return await self._worker.run(job)

    def bucket(self) -> None:
        """Open the bucket and prove that it works; it answers while torch is imported."""
        self._imports.start()
        settings = self._settings
        named = settings.bucket_name or settings.bucket_endpoint_url
        if self._replaced("bucket", bool(named), "BUCKET_NAME is not set"):
            settings = self._embedded_bucket()
        self._bucket = Bucket.from_settings(settings)
        self._bucket.check()

    def gpu(self) -> None:
        """Refuse a machine whose GPU cannot hold the mode, unless the stand-in needs none."""
        if self._imports.ident is not None:
            self._imports.join()
        if self._model_is_real():
            plan = self._plan()
            log.info("mode %s: %s", plan.mode, plan)

    def weights(self) -> None:
        """Load the pipeline."""
        from kontext.inference import model
        from kontext.inference.editor import Editor

        settings = self._settings
        if settings.production:
            model.hide_progress_bars()
        if self._model_is_real():
            found = weights.find(settings.model_id, settings.model_path)
            loaded = model.load(settings.model_id, found, self._plan())
        else:
            _banner("model", "a tiny one, which follows a few instructions such as 'make it sepia'")
            loaded = model.load_stand_in()
        loaded.pipeline.set_progress_bar_config(disable=settings.production)
        self._editor = Editor(loaded, settings.true_cfg_scale)
        if self._model_is_real():
            self._compile(loaded, self._editor)
        read_ahead.settle()

    def safety_checker(self) -> None:
        """Load the safety checker; without it nothing is served."""
        from kontext.inference import safety

        settings = self._settings
        present = Path(settings.safety_model_path).is_dir()
        missing = f"SAFETY_MODEL_PATH {settings.safety_model_path} is not a directory"
        if self._replaced("safety", present, missing):
            _banner("safety checker", "of the same class, built in code, that passes everything")
            self._checker = safety.load_stand_in(settings.safety_threshold)
            return
        self._checker = safety.load(
            settings.safety_model_path,
            settings.safety_threshold,
            settings.safety_second_opinion_path,
            "cuda" if self._model_is_real() else "cpu",
        )

    def _plan(self) -> Plan:
        """Return how the mode is carried out on this machine's GPU.

        Raises:
            BootError: There is no GPU, or it cannot hold the mode.
        """
        from kontext.inference import model

        settings = self._settings
        return mode.choose(settings.mode, model.card(), settings.largest_generated.area)

    def _compile(self, loaded: "Model", editor: "Editor") -> None:
        """Compile the transformer's blocks, or load what another worker has compiled.

        A stand-in on a laptop is not compiled: that takes a minute of C++.
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
        """Make and judge the usual edits on the thread that will run the jobs."""
        from kontext.inference.warm_up import warm_up

        image = warm_up(editor)
        if self._checker is not None:
            self._checker.flags(image)

    def _replaced(self, part: StandIn, present: bool, missing: str) -> bool:
        """Tell whether a stand-in takes the place of `part`.

        Raises:
            BootError: It is missing in production, where nothing is replaced unasked.
        """
        if part in self._settings.stand_in:
            return True
        if present:
            return False
        if self._settings.production:
            raise BootError(f"{missing} (or ask for the stand-in by name: STAND_IN={part})")
        return True

    def _model_is_real(self) -> bool:
        """Tell whether weights are to be loaded onto a GPU."""
        from kontext.inference import model

        settings = self._settings
        if "model" in settings.stand_in:
            return False
        if settings.production or settings.model_path:
            return True
        return model.has_gpu() and weights.are_present(settings.model_id)

    def _embedded_bucket(self) -> Settings:
        root = self._open_resources.enter_context(embedded_bucket.temporary_root())
        environment = self._open_resources.enter_context(embedded_bucket.serve(root))
        _banner("bucket", "an S3 server on loopback; its links die with this process")
        return Settings.load(**{name.lower(): value for name, value in environment.items()})

    def _assemble(self) -> Worker:
        if self._editor is None or self._checker is None or self._bucket is None:
            raise BootError("a job arrived before the worker was ready")
        source = ImageFetcher(address_policy(self._settings))
        return Worker(
            self._settings,
            source,
            self._editor,
            self._checker,
            self._bucket,
            self._post_progress,
            self.executor,
            self.prefetch,
        )


def _banner(part: str, what: str) -> None:
    log.warning("STAND-IN %s: %s", part, what)

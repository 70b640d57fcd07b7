"""From settings to a running worker: what must be there, what a stand-in may replace.

On Runpod the steps run as the SDK's fitness checks, so that a failure marks the worker unhealthy
by name; elsewhere they run before the job. torch and the weights are imported and loaded here,
once, before the first job.
"""

import atexit
import importlib
import logging
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext import embedded_bucket, weights
from kontext.errors import BootError
from kontext.pace import Pace
from kontext.settings import Settings, StandIn
from kontext.source import Source, address_policy
from kontext.storage import Bucket
from kontext.worker import Job, PostProgress, Worker

if TYPE_CHECKING:
    from kontext.editor import Editor
    from kontext.model import Model
    from kontext.safety import SafetyChecker

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
        self.pace = Pace(settings.take_ahead_seconds)
        self._open_resources = ExitStack()
        self._editor: Editor | None = None
        self._checker: SafetyChecker | None = None
        self._bucket: Bucket | None = None
        self._worker: Worker | None = None
        self._imports = threading.Thread(target=_import_model, name="imports", daemon=True)
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
        """Refuse a machine without a suitable GPU, unless the stand-in needs none."""
        if self._imports.ident is not None:
            self._imports.join()
        from kontext import model

        if self._model_is_real():
            model.check_gpu()

    def weights(self) -> None:
        """Load the pipeline."""
        from kontext import model
        from kontext.editor import Editor

        settings = self._settings
        if self._model_is_real():
            found = weights.find(settings.model_id, settings.model_path)
            loaded = model.load(settings.model_id, found)
        else:
            _banner("model", "random weights: the pictures are noise, the path is real")
            loaded = model.load_stand_in()
        loaded.pipeline.set_progress_bar_config(disable=settings.production)
        self._editor = Editor(loaded, settings.true_cfg_scale)
        if settings.compile_cache and self._model_is_real():
            self._compile(settings.compile_cache, loaded, self._editor)

    def safety_checker(self) -> None:
        """Load the safety checker; without it nothing is served."""
        from kontext import safety

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

    def _compile(self, place: str, loaded: "Model", editor: "Editor") -> None:
        """Compile the transformer's blocks, or load what another worker has compiled."""
        from kontext import compile_cache

        identity = compile_cache.identity(loaded, "bfloat16, repeated blocks, dynamic")
        secret = self._settings.compile_cache_secret
        cache = compile_cache.open_cache(place, secret, self._settings, identity)
        loaded.pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
        if cache:
            cache.load()
        compile_cache.warm_up(editor)
        if cache:
            cache.save()

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
        import torch

        settings = self._settings
        if "model" in settings.stand_in:
            return False
        if settings.production or settings.model_path:
            return True
        return torch.cuda.is_available() and weights.present(settings.model_id)

    def _embedded_bucket(self) -> Settings:
        root = self._open_resources.enter_context(tempfile.TemporaryDirectory(prefix="kontext-"))
        environment = self._open_resources.enter_context(embedded_bucket.serve(Path(root)))
        _banner("bucket", "an S3 server on loopback; its links die with this process")
        return Settings.load(**{name.lower(): value for name, value in environment.items()})

    def _assemble(self) -> Worker:
        if self._editor is None or self._checker is None or self._bucket is None:
            raise BootError("a job arrived before the worker was ready")
        source = Source(address_policy(self._settings))
        return Worker(
            self._settings,
            source,
            self._editor,
            self._checker,
            self._bucket,
            self._post_progress,
            self.pace,
        )


def _import_model() -> None:
    """Import what takes seconds; whoever needs it next meets its error, if any, by name."""
    with suppress(Exception):
        importlib.import_module("kontext.model")


def _banner(part: str, what: str) -> None:
    log.warning("STAND-IN %s: %s", part, what)

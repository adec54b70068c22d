"""How does one use CORAL from Python? The verbs of the command line as methods of one object.

::

    from coral_backend import Coral

    with Coral("http://localhost:8080", api_key, project=1, epochs=5) as coral:
        coral.run_round()
        print(coral.status().flags)
        frame = coral.samples()  # a pandas DataFrame, one row a task
        coral.export("labels.xlsx")

Rounds run in this process: no Redis, no worker and no web process are needed for them. Those are what ``coral up`` adds:
pre-annotation of tasks as they come, and retraining when people correct labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from coral_backend import connect as connecting
from coral_backend import export as exporting
from coral_backend.connect import Connection
from coral_backend.controls import project_of, spaces
from coral_backend.effects import Effect, changes, effect_of, round_named
from coral_backend.estimate import Estimate, estimate
from coral_backend.exceptions import ConflictError, NotFoundError
from coral_backend.export import Export, Row
from coral_backend.gold_check import PER_SLICE, GoldCheck, draw_check
from coral_backend.jobs import client_for
from coral_backend.labels import SEVERAL, SPANS, write_controls, write_spans
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.tasks import sample_from_task
from coral_backend.launch import begin_round, change_round
from coral_backend.rollback import Rollback, roll_back
from coral_backend.rounds import RoundRunner, Watch, model_folder, settings_for
from coral_backend.settings import Settings
from coral_backend.status import ProjectStatus, status_of
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Change, LabelSpace, Project, Round, RoundStatus, Sample, Source, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Coral", "Prediction", "RoundView"]


@dataclass(frozen=True)
class Prediction:
    """What CORAL says about one task.

    Attributes
    ----------
    label : str or None
        None when nothing can be said; then `problem` says why.
    score : float or None
        Probability in [0, 1] that `label` is right; None when unknown.
    source : Source or None
        Who says so. ``slm`` for a text that no round has seen.
    """

    label: str | None
    score: float | None
    source: Source | None
    problem: str | None = None


@dataclass(frozen=True)
class RoundView:
    """One round, as notebooks look at it.

    Attributes
    ----------
    row : Round
        The round itself: status, settings, demonstrations and all.
    effect : Effect or None
        How its verdicts differ from those it was built on; None for a first round.
    cost, cost_per_label : float or None
        USD of its requests to an LLM, and for each task that got a label; None where a price is not known.
    """

    row: Round
    effect: Effect | None
    cost: float | None
    cost_per_label: float | None
    _store: Store

    @property
    def name(self) -> str:
        """``"2"``, or ``"1.2"`` for a second retraining."""
        return self.row.name

    @property
    def metrics(self) -> pd.Series:
        """What came out, as one flat Series: ``flags.noisy``, ``agreement.slm``, ``seconds.distil``, ``tasks`` ..."""
        import pandas as pd

        return pd.Series(dict(_flat(self.row.metrics)), name=self.name, dtype=object)

    @property
    def history(self) -> pd.DataFrame:
        """The SLM's training: one row an epoch."""
        import pandas as pd

        return pd.DataFrame(list(self.row.metrics.get("history") or ()))

    def verdicts(self) -> pd.DataFrame:
        """Return what the round decided about each task, most doubtful first; indexed by task id."""
        import pandas as pd

        found = self._store.verdicts(self.row.project_id, self.row.id)
        frame = pd.DataFrame([asdict(verdict) for verdict in found], columns=list(Verdict.__dataclass_fields__))
        return frame.set_index("task_id")


class Coral:
    """One Label Studio project under CORAL.

    Parameters
    ----------
    url, api_key : str, optional
        Label Studio's address and a personal access token; default: ``LABEL_STUDIO_URL`` and ``LABEL_STUDIO_API_KEY``.
    project : int
        Label Studio's project id.
    **settings
        Any field of ``coral_backend.settings.Settings``; they win over the environment.

    Raises
    ------
    SettingsError
        If a setting does not exist or is out of range.

    Examples
    --------
    >>> coral = Coral("http://localhost:8080", "my-token", project=1, model_dir="/tmp/coral-example")
    >>> coral.settings.label_studio_url
    'http://localhost:8080'
    >>> coral.close()
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, project: int = 1, **settings: Any) -> None:
        given = {"label_studio_url": url, "label_studio_api_key": api_key}
        self.settings = Settings.load(**{**{k: v for k, v in given.items() if v is not None}, **settings})
        self.project_id = project

    @cached_property
    def store(self) -> Store:
        """The database; opened when it is first needed."""
        return Store(self.settings.store_url)

    @cached_property
    def client(self) -> LabelStudioClient:
        """Label Studio's client; made when it is first needed.

        Raises
        ------
        SettingsError
            If address or token are not set.
        """
        return client_for(self.settings)

    def close(self) -> None:
        """Give the database connections back."""
        if "store" in self.__dict__:
            self.store.close()
            del self.store

    def __enter__(self) -> Coral:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- verbs ----------------------------------------------------------------------------------------------------

    def connect(
        self, public_url: str | None = None, *, title: str = "CORAL", hint: bool | None = None, **options: Any
    ) -> Connection:
        """Connect the project: webhook and ML backend. Needs the web process; rounds do not need this.

        Parameters
        ----------
        public_url : str, optional
            The web process as Label Studio reaches it; default: ``CORAL_PUBLIC_URL``.
        title : str
            Name of the backend in Label Studio.
        hint : bool, optional
            Put the line with both candidates into the form, or take it out; None leaves the form as it is.
        **options
            Settings of this project only, for example ``epochs=5``; None takes one away.

        Raises
        ------
        CoralError
            If Label Studio, the project or an option is not as it must be; see ``coral_backend.connect``.
        """
        return connecting.connect(
            self.store, self.settings, self.client, self.project_id, title=title, options=options, public_url=public_url,
            hint=hint,
        )  # fmt: skip

    def run_round(
        self,
        retrain: bool = False,
        watch: Watch | None = None,
        *,
        budget: float | None = None,
        batch: bool | None = None,
    ) -> Round:
        """Run a round to its end in this process, and return it; a round that was interrupted goes on.

        Parameters
        ----------
        retrain : bool
            Only learn anew from what people said.
        watch : callable, optional
            Called as ``watch(stage, done, total, detail)`` while it runs.
        budget : float, optional
            Most that the round may cost at the LLM, in USD; default: the setting. A round that was paused because its budget
            was spent goes on under the one given here.
        batch : bool, optional
            Ask through the endpoint's Batch API; default: the setting.

        Raises
        ------
        BudgetError
            Before a request that could pass the budget, and at once if the model's price is not known.
        ConflictError
            If another process works on the project's round, or somebody cancelled it.
        CoralError
            What ended or paused it; what was done is kept, and the next call goes on.

        Examples
        --------
        >>> done = coral.run_round()  # doctest: +SKIP
        >>> done.metrics["flags"]  # doctest: +SKIP
        {'clean': 1650, 'noisy': 270, 'inconsistent': 80}
        """
        project = self._project()
        own = {name: value for name, value in (("budget", budget), ("batch", batch)) if value is not None}
        current = self.store.active_round(project.id)
        if current is None:
            current = begin_round(self.store, self.settings, project.id, own, retrain=retrain)
        else:
            change_round(self.store, self.settings, current, own)
            if current.status is RoundStatus.PAUSED:
                self.store.set_round_status(current.id, RoundStatus.PENDING)
        done = RoundRunner(self.store, self.settings, lambda: self.client, watch=watch).run(current.id)
        if done.status is not RoundStatus.DONE:
            raise ConflictError(f"Round {done.name} is {done.status} at {done.stage}: {done.error or 'by hand.'}")
        return done

    def estimate(self, retrain: bool = False, **options: Any) -> Estimate:
        """Return what the next round would ask and cost, or the rest of the one under way; no LLM is asked.

        Parameters
        ----------
        retrain : bool
            Of a round that only learns anew.
        **options
            ``budget`` and ``batch`` of the round, as for ``run_round``.

        Examples
        --------
        >>> coral.estimate().cost  # doctest: +SKIP
        1.84
        """
        project = self._project()
        return estimate(self.store, self.settings, project.id, lambda: self.client, retrain=retrain, options=options)

    def status(self) -> ProjectStatus:
        """Return how the project stands: counts, flags, tokens, and its rounds.

        Raises
        ------
        NotFoundError
            If neither ``connect`` nor ``run_round`` was called for it before.
        """
        return status_of(self.store, self.project_id)

    def check(self, per_slice: int = PER_SLICE, slices: Sequence[str] = ()) -> GoldCheck:
        """Draw random tasks of each slice for people to label, in Label Studio's tab "Gold check"; see ``coral_backend.gold_check``.

        Parameters
        ----------
        per_slice : int
            How many of each; those drawn before count.
        slices : sequence of str
            Only these; default: all that have enough tasks.

        Raises
        ------
        InputError
            If there is no such slice.

        Examples
        --------
        >>> coral.check(50).to_do  # doctest: +SKIP
        150
        >>> coral.status().slices[0].interval  # doctest: +SKIP
        (0.71, 0.88)
        """
        project = self._project()
        return draw_check(self.store, self.settings, self.client, project.id, per_slice=per_slice, only=slices)

    def samples(self, *, clean_only: bool = False) -> pd.DataFrame:
        """Return one row a task, with the columns of ``export`` (see ``coral_backend.export.MEANINGS``), indexed by task id.

        Examples
        --------
        >>> coral.samples().query("flag == 'noisy'").sort_values("rank")  # doctest: +SKIP
        """
        import pandas as pd

        names = exporting.columns(self.store, self.project_id)
        frame = pd.DataFrame(list(self.rows(clean_only=clean_only)), columns=names)
        space = self.store.project(self.project_id).label_space
        kinds = {name: exporting.kind_of(name, space) for name in names}
        types = {name: {int: "Int64", float: "float64"}[kind] for name, kind in kinds.items() if kind in (int, float)}
        return frame.astype(types).set_index("task_id")

    def rows(self, *, clean_only: bool = False) -> Iterator[Row]:
        """Yield the same as mappings, one at a time: for corpora that need not fit into memory."""
        return exporting.rows(self.store, self.project_id, clean_only=clean_only)

    def rounds(self) -> pd.DataFrame:
        """Return one row a round, the oldest first: status, agreement with people, flags, what it changed, tokens, seconds."""
        import pandas as pd

        lines = [dict(_flat(asdict(line))) for line in self.status().rounds]
        return pd.DataFrame(lines).set_index("name") if lines else pd.DataFrame()

    def round(self, name: str | int | float | None = None) -> RoundView:
        """Return a round by its name (``2``, ``"1.2"``); None is the newest that is done.

        Raises
        ------
        NotFoundError
            If there is none; the message names those there are.

        Examples
        --------
        >>> coral.round(2).metrics["agreement.slm"]  # doctest: +SKIP
        0.926
        """
        row = round_named(self.store, self.project_id, name)
        line = next(line for line in self.status().rounds if line.name == row.name)
        return RoundView(row, effect_of(self.store, row), line.cost, line.cost_per_label, self.store)

    def changes(self, name: str | int | float | None = None) -> pd.DataFrame:
        """Return the verdicts that a round changed, most doubtful first; indexed by task id.

        Raises
        ------
        NotFoundError
            If there is no such round.
        InputError
            If there is no round before it.
        """
        import pandas as pd

        _, found = changes(self.store, self.project_id, name)
        frame = pd.DataFrame([asdict(one) for one in found], columns=list(Change.__dataclass_fields__))
        return frame.set_index("task_id")

    def roll_back(self, name: str | int | float) -> Rollback:
        """Make an older round the one that serves; labels of people stay.

        Raises
        ------
        NotFoundError
            If there is no such round.
        ConflictError
            If it cannot serve now, or a round is under way.
        """
        return roll_back(self.store, self.settings, lambda: self.client, self.project_id, name)

    def export(self, path: str | Path, format: str | None = None, *, clean_only: bool = False) -> Export:  # noqa: A002
        """Write the labels to `path` as xlsx, csv, jsonl, parquet or hf (default: by its ending).

        Raises
        ------
        InputError
            If the format is unknown or the file cannot be written.
        """
        return exporting.export(self.store, self.project_id, Path(path), format, clean_only=clean_only)

    def predict(self, tasks: Sequence[str | Mapping[str, Any]]) -> list[Prediction]:
        """Return a prediction for each task, in their order: its verdict if it has one, else what the SLM says.

        Parameters
        ----------
        tasks : sequence
            Texts, or tasks as Label Studio has them (``{"id": 3, "data": {"text": "..."}}``).

        Raises
        ------
        NotFoundError
            If the project has no finished round.
        ConflictError
            If the label config was changed since that round.
        ModelFileError
            If the model of that round is missing or damaged.
        """
        project = self.store.project(self.project_id)
        serving = self._serving_round(project)
        samples = [self._sample(project, task) for task in tasks]
        found = self._verdicts(project, serving, [s for s in samples if s.task_id])
        said = [found.get((s.task_id, s.content_hash)) for s in samples]
        new = [s for s, known in zip(samples, said, strict=True) if known is None and s.problem is None]
        asked = iter(self._ask_slm(project, serving, new))
        return [
            known or (Prediction(None, None, None, sample.problem) if sample.problem else next(asked))
            for sample, known in zip(samples, said, strict=True)
        ]

    # --- inside ---------------------------------------------------------------------------------------------------

    def _project(self) -> Project:
        try:
            return self.store.project(self.project_id)
        except NotFoundError:
            connecting.their_project(self.client, self.project_id)
            return refresh_project(self.store, self.client, self.project_id, controls=self.settings.controls)

    def _serving_round(self, project: Project) -> Round:
        """Return the round that serves; its labels, and its model's class numbers, are of the config it was run under."""
        if project.active_round is None:
            raise NotFoundError(f"Project {project.id} has no finished round. Run one: coral.run_round().")
        serving = self.store.round(project.active_round)
        if serving.config_hash != project.config_hash:
            raise ConflictError(
                f"The label config of project {project.id} was changed since round {serving.name}, whose labels and model "
                "no longer fit it. Run a new round: coral.run_round()."
            )
        return serving

    def _sample(self, project: Project, task: str | Mapping[str, Any]) -> Sample:
        """Return our row; the id 0 stands for a text that is no task."""
        own = settings_for(self.settings, project)
        given = {"data": {project.label_space.text_key: task}} if isinstance(task, str) else task
        return sample_from_task(
            project.label_space,
            {"id": 0, **given},
            recorded_key=own.recorded_key,
            max_chars=own.max_text_chars,
            slice_key=own.slice_key,
        )

    def _verdicts(
        self, project: Project, serving: Round, samples: Sequence[Sample]
    ) -> dict[tuple[int, str], Prediction]:
        """Return the verdicts by task id and the hash of the text that was judged, which may be an older one."""
        verdicts = self.store.verdicts(project.id, serving.id, {sample.task_id for sample in samples})
        return {
            (v.task_id, v.content_hash): Prediction(v.label, v.score, v.source)
            for v in verdicts
            if v.content_hash is not None and v.label is not None
        }

    def _ask_slm(self, project: Project, serving: Round, samples: Sequence[Sample]) -> list[Prediction]:
        if not samples:
            return []
        whole = project.label_space
        said = {space.from_name: self._ask_one(project_of(project, space), serving, samples) for space in spaces(whole)}
        return [self._joined(whole, dict(zip(said, row, strict=True))) for row in zip(*said.values(), strict=True)]

    def _ask_one(self, project: Project, serving: Round, samples: Sequence[Sample]) -> list[Prediction]:
        from coral_backend.slm.engine import Model  # torch, only where it is needed

        if project.control is not None and project.control not in serving.metrics.get("controls", {}):
            return [Prediction(None, None, None, f"nothing was learned of {project.control}")] * len(samples)
        folder = model_folder(settings_for(self.settings, project), serving, project.control)
        if project.label_space.kind == SPANS:
            return _ask_for_spans(folder, samples)
        model = Model.load(folder)
        probs, _ = model.predict([sample.text for sample in samples])
        best = probs.argmax(axis=1)
        labels = project.label_space.labels
        return [Prediction(labels[k], round(float(row[k]), 6), Source.SLM) for k, row in zip(best, probs, strict=True)]

    def _joined(self, space: LabelSpace, said: Mapping[str, Prediction]) -> Prediction:
        """Return what the controls say together, as sure as the least sure; of one control, what it says."""
        if space.kind != SEVERAL:
            return next(iter(said.values()))
        known = {name: one for name, one in said.items() if one.label is not None}
        label = write_controls({name: one.label for name, one in known.items()}, list(said))
        return Prediction(label, min(one.score for one in known.values() if one.score is not None), Source.SLM)


def _ask_for_spans(folder: Path, samples: Sequence[Sample]) -> list[Prediction]:
    """Return what the SLM marks in each text; the score is of its least sure span."""
    from coral_backend.slm.span_engine import Seen, SpanModel

    seen, _ = SpanModel.load(folder).predict([sample.text for sample in samples], [()] * len(samples))
    of_text: list[list[Seen]] = [[] for _ in samples]
    for one in seen:
        if one.decoded:
            of_text[one.row].append(one)
    return [
        Prediction(
            write_spans([one.span for one in spans]), round(min((one.p for one in spans), default=1.0), 6), Source.SLM
        )
        for spans in of_text
    ]


def _flat(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings under dotted names."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value

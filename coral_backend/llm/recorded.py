"""What if the labels exist already? A column of the task data answers in place of an annotator."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from coral_backend.controls import said_of
from coral_backend.labels import MULTIPLE, SPANS
from coral_backend.llm.base import OnAnswer, Question, abstained
from coral_backend.llm.forms.multiple import recorded_set
from coral_backend.llm.forms.spans import recorded_spans
from coral_backend.llm.parse import match_label, plain
from coral_backend.llm.prompt import Prompt
from coral_backend.types import Answer


class RecordedAnnotator:
    """Answer with ``sample.recorded``: an LLM's labels from before, a crowd's, a log's; of several controls, an object of them.

    ``is_llm`` is False: nobody is asked, and who gave the labels is not known here.
    """

    is_llm = False

    def __init__(self, key: str) -> None:
        self.name = f"recorded:{key}"
        self._key = key

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """Hand over the recorded label of each sample; an empty or unknown one is an abstention with its reason."""
        for question in questions:
            check()
            sample, control = question.sample, question.control
            recorded = sample.recorded if control is None else said_of(sample.recorded, control)
            on_answer(sample, abstained(sample, self.name) or self._read(recorded, question.prompt, sample.text))

    def _read(self, recorded: str | None, prompt: Prompt, text: str) -> Answer:
        labels = prompt.labels
        raw = plain(recorded or "")
        if not raw:
            return Answer(None, reason=f"{self._key!r} holds no label for this task.", annotator=self.name)
        if prompt.kind == SPANS:
            spans, fault = recorded_spans(recorded or "", labels, text)
            return Answer(spans, raw=raw, reason=fault and f"{fault[:1].upper()}{fault[1:]}.", annotator=self.name)
        if prompt.kind == MULTIPLE:
            said, fault = recorded_set(recorded or "", labels)
            return Answer(said, raw=raw, reason=fault and f"{fault[:1].upper()}{fault[1:]}.", annotator=self.name)
        label = match_label(recorded or "", labels)
        if label is None:
            reason = f"The recorded label {raw[:80]!r} is none of the {len(labels)} labels of the label config."
            return Answer(None, raw=raw, reason=reason, annotator=self.name)
        return Answer(label, raw=raw, annotator=self.name)

"""A question answered in hops, each checked against what is known (Zhong et al. 2023, MeLLo)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from alphaedit.core.fact_text import canonical
from alphaedit.methods.steps.notes import Note

Generate = Callable[[Sequence[Sequence[str]]], list[str]]
"""Goes on from texts; of each several forms are given, the longest first, and one that fits is
used."""
Retrieve = Callable[[Sequence[str]], list[Note | None]]
"""What is known about questions."""

EXAMPLES = (
    "Question: In which country was the author of Faust born?\n"
    "Subquestion: Who is the author of Faust?\n"
    "Own answer: Johann Wolfgang von Goethe\n"
    "Known fact: The author of Faust is Jane Austen.\n"
    "Does the fact answer the subquestion otherwise? Yes\n"
    "Subquestion: In which country was Jane Austen born?\n"
    "Own answer: England\n"
    "Final answer: England\n\n",
    "Question: What is the capital of the country of which Lionel Messi is a citizen?\n"
    "Subquestion: Of which country is Lionel Messi a citizen?\n"
    "Own answer: Argentina\n"
    "Known fact: Lionel Messi plays the sport of tennis.\n"
    "Does the fact answer the subquestion otherwise? No\n"
    "Subquestion: What is the capital of Argentina?\n"
    "Own answer: Buenos Aires\n"
    "Known fact: The capital of Argentina is Nairobi.\n"
    "Does the fact answer the subquestion otherwise? Yes\n"
    "Final answer: Nairobi\n\n",
    "Question: Which language is spoken in the country where the Colosseum stands?\n"
    "Subquestion: In which country does the Colosseum stand?\n"
    "Own answer: Italy\n"
    "Known fact: The Colosseum is located in Norway.\n"
    "Does the fact answer the subquestion otherwise? Yes\n"
    "Subquestion: Which language is spoken in Norway?\n"
    "Own answer: Norwegian\n"
    "Final answer: Norwegian\n\n",
)
SUBQUESTION, OWN, FACT = "Subquestion:", "Own answer:", "Known fact:"
CHECK = "Does the fact answer the subquestion otherwise?"
_FIRST = re.compile(r"^\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Hop:
    """A subquestion, its answer, and the note that the answer was taken from, if from one."""

    question: str
    answer: str
    note: Note | None = None
    seen: Note | None = None

    @property
    def text(self) -> str:
        """As it stands in front of the next hop."""
        told = f"{SUBQUESTION} {self.question}\n{OWN} {self.answer}\n"
        if self.seen is None:
            return told
        verdict = "Yes" if self.note else "No"
        return f"{told}{FACT} {self.seen.statement}.\n{CHECK} {verdict}\n"


def answer_in_hops(
    questions: Sequence[str],
    generate: Generate,
    retrieve: Retrieve,
    *,
    most: int = 4,
    judge: str = "model",
) -> list[list[Hop]]:
    """Hops of each question, all questions going on together.

    Each hop: the model writes a subquestion and its own answer; what is known about the
    subquestion is looked up; the model says whether it answers it otherwise, and then its object
    is the answer. A question that the model does not take apart is its own only hop.

    Args:
        questions: the questions.
        generate: the model, greedily.
        retrieve: the memory.
        most: hops of a question.
        judge: who says whether a fact counts: "model", or "words": every fact whose object is not
            in the model's own answer does.
    """
    done: list[list[Hop]] = [[] for _ in questions]
    going = list(range(len(questions)))
    for _ in range(most):
        texts = generate([_ways(f"{_so_far(questions[i], done[i])}{SUBQUESTION}") for i in going])
        steps = [_step(questions[i], done[i], t) for i, t in zip(going, texts, strict=True)]
        asked = [(i, *step) for i, step in zip(going, steps, strict=True) if step is not None]
        if not asked:
            break
        notes = retrieve([question for _, question, _, _ in asked])
        hops = [
            Hop(question, own, seen=note)
            for (_, question, own, _), note in zip(asked, notes, strict=True)
        ]
        before = [_so_far(questions[i], done[i]) for i, *_ in asked]
        for (i, *_), hop in zip(asked, _checked(before, hops, generate, judge), strict=True):
            done[i].append(hop)
        going = [i for i, _, _, last in asked if not last]
    return done


def _checked(
    before: Sequence[str], hops: Sequence[Hop], generate: Generate, judge: str
) -> list[Hop]:
    """Hops with the answers of facts that count."""
    unsure = [i for i, hop in enumerate(hops) if hop.seen and not _says(hop.answer, hop.seen)]
    counts = dict.fromkeys(unsure, True)
    if judge == "model" and unsure:
        asked = [f"{before[i]}{hops[i].text.rpartition(CHECK)[0]}{CHECK}" for i in unsure]
        answers = generate([_ways(text) for text in asked])
        counts = {
            i: _line(text).casefold().startswith("yes")
            for i, text in zip(unsure, answers, strict=True)
        }
    out = []
    for i, hop in enumerate(hops):
        note = hop.seen if counts.get(i) else None
        out.append(Hop(hop.question, note.target if note else hop.answer, note, hop.seen))
    return out


def _says(answer: str, note: Note) -> bool:
    return canonical(note.target).casefold() in canonical(answer).casefold()


def _so_far(question: str, hops: Sequence[Hop]) -> str:
    return f"Question: {question}\n" + "".join(hop.text for hop in hops)


def _ways(text: str) -> list[str]:
    """A text behind all examples, behind fewer, and alone."""
    return ["".join(EXAMPLES[i:]) + text for i in range(len(EXAMPLES) + 1)]


def _step(question: str, hops: Sequence[Hop], text: str) -> tuple[str, str, bool] | None:
    """Next subquestion, the model's own answer, and whether it is the last; None to end."""
    part = text.split("Question:")[0].split("Final answer:")[0]
    written = _line(part)
    own = _line(part.partition(OWN)[2]).rstrip(".")
    asks = written.endswith("?") and not any(written == hop.question for hop in hops)
    if asks:
        return written, own, False
    # What is no subquestion ends it; the first hop is then the question itself.
    return None if hops else (question, own, True)


def _line(text: str) -> str:
    first = _FIRST.search(text)
    return first.group(1) if first else ""


def question_of(prompt: str) -> str:
    """What is asked at the end of a prompt, without the marks around it."""
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    last = lines[-1] if lines else prompt.strip()
    asked = re.sub(r"^(?:question|q)\s*:\s*", "", last, flags=re.IGNORECASE)
    asked = re.sub(r"\s*(?:answer|a)\s*:$", "", asked, flags=re.IGNORECASE)
    return asked or last


def told(hops: Sequence[Hop]) -> Iterator[str]:
    """The answers of hops as statements, for the text in front of a question."""
    for hop in hops:
        if hop.answer:
            yield f"{hop.question} {hop.answer.rstrip('.')}."

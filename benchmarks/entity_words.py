"""How right are entity words? Judged on 100 captions labelled by hand, half of them held out, and on toyworld's.

    python benchmarks/entity_words.py [--json out/words.json]
    python benchmarks/entity_words.py --llm http://localhost:8000/v1 --model NAME    # a language model beside the rules

Labels (captions.jsonl): `entities`, each a word or several that are as good; `optional` words neither count nor harm;
`forbidden` words, each with the rule that forbids it. Captions are ours; rules were written with a view to those that
are not `held_out`. Printed for each namer:

    precision  share of the words it names (optional ones left out) that are labelled as entities
    recall     share of the labelled entities that it names by one of their words
    exact      share of captions with all entities and nothing else
    no answer  captions for which a language model gave none, however often it was asked

and for each rule: how many words are labelled with it; how many of those the rule's check finds, alone and with the
help of the other checks; how many good words it forbids; and how often each namer chose a word labelled with it. Of a
language model's first answers, before any check, it is counted how often they break each rule.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alchemint import media
from alchemint.annotate.namers import Entities, LlmNamer, RuleNamer, question
from alchemint.annotate.recipe import Llm, Words
from alchemint.annotate.words import RULES, broken_rules
from alchemint.language_model import AnswerError, ask, connect
from alchemint.toyworld import WorldConfig, render_clip

MOST = Words().most


@dataclass(frozen=True)
class Labelled:
    """A caption and what is labelled of it: entities by words that are as good, optional words, forbidden words."""

    caption: str
    entities: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class Score:
    """See the head of this file; `chosen` counts forbidden words by their rule, `wrong` lists all that was wrong."""

    precision: float
    recall: float
    exact: float
    no_answer: int
    captions: int
    chosen: dict[str, int]
    wrong: list[dict[str, Any]]


@dataclass(frozen=True)
class RuleScore:
    """Of the words labelled with a rule: how many there are, how many its check finds, and any check; and how many good
    words it forbids."""

    labelled: int
    found: int
    found_by_any: int
    good_forbidden: int


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", help="URL of an OpenAI-compatible server, with its version")
    parser.add_argument("--model", help="the language model's name there")
    parser.add_argument("--toyworld", type=int, default=200, help="toyworld captions, half of them of unseen subjects")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print each caption of which something is wrong")
    arguments = parser.parse_args()
    labelled = read_captions(Path(__file__).with_name("captions.jsonl"))
    sets = {"tuning": [one for one in labelled if not one.held_out],
            "held out": [one for one in labelled if one.held_out], "all": labelled,
            "toyworld": toyworld_captions(arguments.toyworld)}
    namers: dict[str, Callable[[str], tuple[str, ...]]] = {"rules": RuleNamer(MOST).name}
    table: dict[str, Any] = {}
    if arguments.llm:
        if not arguments.model:
            parser.error("--llm needs --model")
        client = connect(arguments.llm)
        namers["model"] = LlmNamer(client, Llm(url=arguments.llm, model=arguments.model), MOST).name
        answers = [ask(client, arguments.model, question(one.caption, MOST), Entities) for one in labelled]
        table["first answers break"] = first_breaks(labelled, [answer.entities for answer in answers])
    scores = {name: {which: score(rows, namer) for which, rows in sets.items()} for name, namer in namers.items()}
    rules = rule_scores(labelled)
    print(f"{'':18} precision  recall   exact  no answer  captions")
    for name, by_set in scores.items():
        for which, one in by_set.items():
            print(f"{name + ', ' + which:18} {one.precision:9.1%} {one.recall:7.1%} {one.exact:7.1%} "
                  f"{one.no_answer:10} {one.captions:9}")
    first = table.get("first answers break")
    print(f"\n{'rule':18} labelled  found  by any  good forbidden"
          + "".join(f"  chosen by {name}" for name in scores) + ("  in first answers" if first else ""))
    for rule, of_rule in rules.items():
        chosen = "".join(f"{by_set['all'].chosen.get(rule, 0):{12 + len(name)}}" for name, by_set in scores.items())
        print(f"{rule:18} {of_rule.labelled:8} {of_rule.found:6} {of_rule.found_by_any:7} {of_rule.good_forbidden:15}"
              f"{chosen}" + (f"{first.get(rule, 0):18}" if first else ""))
    if arguments.verbose:
        for name, by_set in scores.items():
            for wrong in by_set["all"].wrong + by_set["toyworld"].wrong:
                print(f"\n{name}: {wrong['caption']}\n    named {wrong['named']}, missed {wrong['missed']}, "
                      f"wrong {wrong['extra']}")
    if arguments.json:
        table["scores"] = {name: {which: asdict(one) for which, one in by_set.items()}
                           for name, by_set in scores.items()}
        table["rules"] = {rule: asdict(one) for rule, one in rules.items()}
        media.write_text(arguments.json, json.dumps(table, indent=1))


def read_captions(path: Path) -> list[Labelled]:
    """Return the labelled captions. Raises ValueError for a label that does not stand in its caption."""
    labelled = []
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        entities = tuple((entity,) if isinstance(entity, str) else tuple(entity) for entity in row["entities"])
        words = [*(word for entity in entities for word in entity), *row["optional"], *row["forbidden"]]
        astray = [word for word in words if "not in the caption" in broken_rules(word, row["caption"])]
        unknown = set(row["forbidden"].values()) - set(RULES)
        if astray or unknown:
            raise ValueError(f'{path}, "{row["caption"]:.40}": no such words {astray}, no such rules {unknown}')
        labelled.append(Labelled(row["caption"], entities, tuple(row["optional"]), tuple(row["forbidden"].items()),
                                 row["held_out"]))
    return labelled


def toyworld_captions(num: int) -> list[Labelled]:
    """Return captions of toyworld, whose subjects are known."""
    # Captions don't depend on the size of pictures, but small ones are quick.
    config = WorldConfig(width=32, height=32, num_frames=13, reference_size=32)
    clips = [render_clip(split, index, config) for split in ("train", "heldout") for index in range(num // 2)]
    return [Labelled(clip.caption, tuple(_spellings(subject.word, clip.caption) for subject in clip.subjects))
            for clip in clips]


def _spellings(word: str, caption: str) -> tuple[str, ...]:
    return (word,) if word in caption else (word.capitalize(),)


def score(rows: list[Labelled], namer: Callable[[str], tuple[str, ...]]) -> Score:
    """Judge a namer on captions."""
    chosen: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    right = named_count = found = entities = exact = no_answer = 0
    for row in rows:
        try:
            named = namer(row.caption)
        except AnswerError:
            named, no_answer = (), no_answer + 1
        good = {word for entity in row.entities for word in entity}
        counted = [word for word in named if word not in row.optional]
        missed = [entity[0] for entity in row.entities if not set(entity) & set(named)]
        extra = [word for word in counted if word not in good]
        chosen.update(rule for word, rule in row.forbidden if word in named)
        right, named_count = right + len(counted) - len(extra), named_count + len(counted)
        found, entities = found + len(row.entities) - len(missed), entities + len(row.entities)
        exact += not missed and not extra
        if missed or extra:
            wrong.append({"caption": row.caption, "named": named, "missed": missed, "extra": extra})
    return Score(right / max(named_count, 1), found / max(entities, 1), exact / max(len(rows), 1), no_answer, len(rows),
                 dict(chosen), wrong)


def rule_scores(rows: list[Labelled]) -> dict[str, RuleScore]:
    """Judge each rule's check on the labelled words, with the first word of each entity chosen beside them."""
    labelled, found, found_by_any, forbidden = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        chosen = [entity[0] for entity in row.entities]
        for word, rule in row.forbidden:
            broken = broken_rules(word, row.caption, chosen)
            labelled[rule] += 1
            found[rule] += rule in broken
            found_by_any[rule] += bool(broken)
        for entity in row.entities:
            for word in entity:
                others = [other for other in chosen if other not in entity]
                forbidden.update(list(broken_rules(word, row.caption, others)))
    return {rule: RuleScore(labelled[rule], found[rule], found_by_any[rule], forbidden[rule]) for rule in RULES}


def first_breaks(rows: list[Labelled], answers: list[tuple[str, ...]]) -> dict[str, int]:
    """Count how often words of answers break each rule."""
    return dict(Counter(
        rule for row, words in zip(rows, answers, strict=True) for number, word in enumerate(words)
        for rule in broken_rules(word, row.caption, [*words[:number], *words[number + 1:]])))


if __name__ == "__main__":
    main()

"""Generate a small synthetic question-answering dataset, with its tokenizer and model configuration, from a seed.

Every paragraph describes an invented person and the town they come from; every question asks for one of the facts in
it. Names are built from syllables, and no name, year or profession of the validation set occurs in the training set, so
the correct answer has to be read from the paragraph.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from qa.io.files import writing

if TYPE_CHECKING:
    from transformers import AlbertConfig, PreTrainedTokenizerFast

TRAIN_SIZE, VALIDATION_SIZE = 8000, 500  # questions
SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]"}

PEOPLE = "name", "spouse", "mayor"  # placeholders below that stand for a person
ONSETS = "b d f g h j k l m n p r s t v w br dr gr kr st th tr".split()
CODAS = ["", "", "l", "n", "r", "s"]
PROFESSIONS = (
    "baker barber botanist brewer builder carpenter chemist clerk cobbler cook dancer doctor farmer fisher "
    "gardener glazier hatter hunter jeweller judge lawyer mason merchant miller miner nurse painter pilot "
    "plumber poet porter potter printer sailor sculptor shepherd singer surgeon tailor teacher vet weaver"
).split()

# Each fact: sentences that state it, and the questions that it answers, by the placeholder that is the answer.
FACTS = [
    (
        ["{name} was born in {town} in {year}.", "In {year}, {name} was born in {town}."],
        {
            "town": ["Where was {name} born?", "In which town was {name} born?"],
            "year": ["When was {name} born?", "In which year was {name} born?"],
        },
    ),
    (
        ["{name} worked as a {profession}.", "{name} was a {profession} by trade."],
        {"profession": ["What was the profession of {name}?", "What did {name} do for a living?"]},
    ),
    (
        ["{name} married {spouse}.", "{name} was married to {spouse}."],
        {"spouse": ["Who did {name} marry?", "Who was {name} married to?"]},
    ),
    (
        ["{town} lies on the river {river}.", "The river {river} flows through {town}."],
        {"river": ["Which river flows through {town}?", "On which river does {town} lie?"]},
    ),
    (
        ["The mayor of {town} is {mayor}.", "{town} is led by mayor {mayor}."],
        {"mayor": ["Who is the mayor of {town}?", "What is the name of the mayor of {town}?"]},
    ),
]


class FactSampler:
    """Draw values for the facts: names that are never repeated, years and professions from those of one split."""

    def __init__(self, rng: random.Random, used: set[str], years: list[int], professions: list[str]):
        self.rng, self.used, self.years, self.professions = rng, used, years, professions

    def draw_name(self) -> str:
        while True:
            syllables = [self.rng.choice(ONSETS) + self.rng.choice("aeiou") for _ in range(self.rng.choice([2, 2, 3]))]
            name = ("".join(syllables) + self.rng.choice(CODAS)).capitalize()
            if name not in self.used:
                self.used.add(name)
                return name

    def draw_values(self) -> dict[str, str]:
        people = {kind: " ".join(self.draw_name() for _ in range(self.rng.choice([1, 2]))) for kind in PEOPLE}
        places = {kind: self.draw_name() for kind in ("town", "river")}
        year, profession = self.rng.choice(self.years), self.rng.choice(self.professions)
        return people | places | {"year": str(year), "profession": profession}


def make_paragraph(sampler: FactSampler, has_unanswerable: bool) -> tuple[str, list[tuple[str, str | None, int]]]:
    """Return a context and two questions, each with its answer and the answer's offset.

    With ``has_unanswerable``, about every third question asks for a fact that the context does not state; its answer is
    None.
    """
    values, context = sampler.draw_values(), ""
    asked: list[tuple[str, str | None, int]] = []
    stated = sampler.rng.sample(FACTS, 4)
    for sentences, questions in stated:
        sentence = sampler.rng.choice(sentences)
        for kind, forms in questions.items():
            before = context + sentence[: sentence.index("{" + kind + "}")].format(**values)
            asked.append((sampler.rng.choice(forms).format(**values), values[kind], len(before)))
        context += sentence.format(**values) + " "
    chosen = sampler.rng.sample(asked, 2)
    if has_unanswerable:
        (unstated,) = (questions for sentences, questions in FACTS if (sentences, questions) not in stated)
        forms = list(itertools.chain(*unstated.values()))
        chosen = [
            (sampler.rng.choice(forms).format(**values), None, 0) if sampler.rng.random() < 1 / 3 else question
            for question in chosen
        ]
    return context.strip(), chosen


def make_squad(sampler: FactSampler, count: int, prefix: str, has_unanswerable: bool = False) -> dict:
    """Return nested SQuAD JSON with ``count`` questions: SQuAD 2.0 with ``has_unanswerable``, else 1.1."""
    articles = []
    for number in range(count // 2):
        context, asked = make_paragraph(sampler, has_unanswerable)
        qas = []
        for i, (question, text, start) in enumerate(asked):
            answers = [] if text is None else [{"text": text, "answer_start": start}]
            qa = {"id": f"{prefix}-{number}-{i}", "question": question, "answers": answers}
            qas.append(qa | {"is_impossible": text is None} if has_unanswerable else qa)
        articles.append({"title": f"{prefix} {number}", "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "v2.0" if has_unanswerable else "1.1", "data": articles}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer for the words of ``FACTS``, to which every name, year and profession is ``<unk>``."""
    from transformers import PreTrainedTokenizerFast

    texts = [text for sentences, questions in FACTS for text in (*sentences, *itertools.chain(*questions.values()))]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", re.sub(r"{\w+}", "", text.lower()))})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL_TOKENS.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=160, **SPECIAL_TOKENS)


def make_config(tokenizer: PreTrainedTokenizerFast) -> AlbertConfig:
    """Return the configuration of a small ALBERT for this tokenizer."""
    from transformers import AlbertConfig

    return AlbertConfig(
        architectures=["AlbertForQuestionAnswering"],
        vocab_size=len(tokenizer),
        embedding_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=160,
        initializer_range=0.08,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


def make_questions(seed: int) -> dict[str, dict]:
    """Return nested SQuAD JSON by file name: training and validation questions, as SQuAD 1.1 and as 2.0."""
    rng, used = random.Random(seed), set[str]()
    years, professions = rng.sample(range(1400, 2000), 600), rng.sample(PROFESSIONS, len(PROFESSIONS))
    splits = {"train": (years[60:], professions[10:]), "validation": (years[:60], professions[:10])}
    sizes = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE}
    return {
        f"{split}{version}.json": make_squad(FactSampler(rng, used, *values), sizes[split], split, version == "_v2")
        for version in ("", "_v2")
        for split, values in splits.items()
    }


def write_demo(folder: str | Path, seed: int = 0) -> None:
    """Write the demo to ``folder``, unless it exists: tokenizer, config.json and the questions.

    Every question of train.json and validation.json has an answer; about a third of those of train_v2.json and
    validation_v2.json have none.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        return
    tokenizer = make_tokenizer()
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with writing(folder, "; choose another --demo_dir"):
            staged.mkdir(parents=True)
            for name, questions in make_questions(seed).items():
                (staged / name).write_text(json.dumps(questions, indent=1), encoding="utf-8")
            tokenizer.save_pretrained(staged)
            make_config(tokenizer).save_pretrained(staged)
            try:
                staged.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been first
                    raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)

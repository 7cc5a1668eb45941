"""Makes pipeline_reference.json.gz: what the question-answering pipeline of transformers 4.57 answered.

    python -m venv old && old/bin/pip install "transformers==4.57.6" "torch==2.13.0"
    python tests/data/make_pipeline_reference.py inputs ../shared inputs.json          # with this repository's packages
    python tests/data/make_pipeline_reference.py tiny ../shared/albert-base-v2 tiny    # likewise
    old/bin/python tests/data/make_pipeline_reference.py run inputs.json tests/data/pipeline_reference.json.gz \\
        tiny=tiny minilm=FOLDER

FOLDER is a run of ``train.py`` that started from all-MiniLM-L6-v2. Kept are ids, offsets and scores, no texts.
"""

import gzip
import json
import sys
from pathlib import Path

COUNT, IMPOSSIBLE, LONG = (
    200,
    60,
    40,
)  # questions of the 1.1 dev set; of the 2.0 dev set; of the first, in long contexts
JOINED = 6  # paragraphs in a long context
SETTINGS = {  # name: options of the call, as both take them
    "plain": {"max_answer_len": 15, "max_seq_len": 384, "doc_stride": 128, "handle_impossible_answer": False},
    "top_5": {
        "top_k": 5,
        "max_answer_len": 30,
        "max_seq_len": 384,
        "doc_stride": 128,
        "handle_impossible_answer": False,
    },
    "small": {"top_k": 3, "max_answer_len": 10, "max_seq_len": 96, "doc_stride": 24, "align_to_words": False},
}
SETTINGS["small"]["handle_impossible_answer"] = False
IMPOSSIBLE_OPTIONS = {
    "top_k": 3,
    "max_answer_len": 15,
    "max_seq_len": 384,
    "doc_stride": 128,
    "handle_impossible_answer": True,
}


def paragraphs(path: Path) -> list[list[dict]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [article["paragraphs"] for article in json.load(file)["data"]]


def pick(items: list, count: int) -> list:
    """``count`` of the items, evenly spread."""
    return [items[i * len(items) // count] for i in range(count)]


def inputs(shared: Path) -> dict[str, list[dict]]:
    """id, question and context of every input; in a long one the context is several paragraphs."""
    articles = paragraphs(shared / "data/squad/dev-v1.1.json.gz")
    places = [
        (a, p, q) for a, part in enumerate(articles) for p, item in enumerate(part) for q in range(len(item["qas"]))
    ]
    rows = []
    for number, (a, p, q) in enumerate(pick(places, COUNT)):
        qa, first = articles[a][p]["qas"][q], max(0, p - JOINED // 2)
        long = number % (COUNT // LONG) == 0
        texts = (
            [item["context"] for item in articles[a][first : first + JOINED]] if long else [articles[a][p]["context"]]
        )
        rows.append({"id": qa["id"], "question": qa["question"], "context": "\n\n".join(texts)})
    found = [
        (item, qa) for part in paragraphs(shared / "data/squad/dev-v2.0.json.gz") for item in part for qa in item["qas"]
    ]
    impossible = [
        {"id": qa["id"], "question": qa["question"], "context": item["context"]} for item, qa in pick(found, IMPOSSIBLE)
    ]
    return {"answerable": rows, "impossible": impossible}


def make_tiny(tokenizer: Path, folder: Path) -> None:
    """An ALBERT of a quarter of a million weights from a seed, its head scaled so that it prefers some spans."""
    import torch
    from transformers import AlbertConfig, AlbertForQuestionAnswering, AutoTokenizer

    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    config = AlbertConfig(
        vocab_size=30000, embedding_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=512, hidden_act="gelu_new", initializer_range=0.4,
    )  # fmt: skip
    model = AlbertForQuestionAnswering(config)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, weights in sorted(model.named_parameters()):
            scale = 1.5 if name.startswith("qa_outputs") else 0.0 if name.endswith("bias") else 0.4
            if "LayerNorm" not in name and "layer_norm" not in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * scale)
        cls = torch.Generator().manual_seed(3084)  # one of few with which this model prefers no answer now and then
        model.albert.embeddings.word_embeddings.weight[2] = torch.randn(8, generator=cls) * 4
    model.save_pretrained(folder)


def run(rows: dict[str, list[dict]], models: dict[str, str]) -> dict:
    import torch
    import transformers

    torch.set_num_threads(1)
    results = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    for name, folder in models.items():
        answerer = transformers.pipeline("question-answering", model=folder, device=-1)
        own = results[name] = {}
        for setting, options in [*SETTINGS.items(), ("impossible", IMPOSSIBLE_OPTIONS)]:
            part = own[setting] = {}
            for row in rows["impossible" if setting == "impossible" else "answerable"]:
                found = answerer(question=row["question"], context=row["context"], **options)
                found = found if isinstance(found, list) else [found]
                part[row["id"]] = [[item["start"], item["end"], round(item["score"], 7)] for item in found]
            print(name, setting, len(part), file=sys.stderr)
    return results


def main(step: str, source: str, target: str, *models: str) -> None:
    if step == "inputs":
        Path(target).write_text(json.dumps(inputs(Path(source))), encoding="utf-8")
    elif step == "tiny":
        make_tiny(Path(source), Path(target))
    else:
        rows = json.loads(Path(source).read_text(encoding="utf-8"))
        text = json.dumps(run(rows, dict(item.split("=", 1) for item in models)))
        Path(target).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])

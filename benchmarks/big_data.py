"""Measure the peak memory of reading and checking synthetic questions and making their windows.

    python benchmarks/big_data.py 10000 100000 1000000 --folder /disk/with/room

Each size runs in its own process, on JSON lines and a small tokenizer that are generated here. The peak is that of
anonymous memory (RssAnon of Linux, sampled), which excludes the pages of mapped files that the system can reclaim.
``--workers`` is preprocessing_num_workers; the memory of these processes is not counted.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = [
    a + b + c for a in ("mi", "ta", "so", "vin", "ar") for b in ("ra", "len", "del", "no") for c in ("", "s", "ki")
]


def write_questions(path: Path, count: int) -> None:
    """Write JSON lines with different contexts of 60 words, and answers of one to three words."""
    rng = random.Random(count)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            words = rng.choices(WORDS, k=60)
            begin = rng.randrange(57)
            answer = " ".join(words[begin : begin + rng.randint(1, 3)])
            start = len(" ".join(words[:begin])) + (begin > 0)
            row = {"id": f"q{number}", "question": f"what follows {words[begin - 1]}?", "context": " ".join(words)}
            row["answers"] = {"text": [answer], "answer_start": [start]}
            file.write(json.dumps(row) + "\n")


def write_tokenizer(folder: Path) -> None:
    """Save a tokenizer with the words of the questions as its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS, "what", "follows", "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)


def anonymous_memory() -> float:
    """Return the memory of this process that is not backed by a file, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def watch(peak: list[float]) -> None:
    """Keep the highest memory in ``peak[0]``, in MiB, until the process ends."""
    while True:
        peak[0] = max(peak[0], anonymous_memory())
        time.sleep(0.02)


def measure(folder: Path, count: int, workers: int) -> None:
    """Run preprocess.py in this process and print its peak memory and time."""
    sys.path.insert(0, str(REPOSITORY))
    import preprocess

    write_questions(folder / "train.jsonl", count)
    sys.argv = ["preprocess.py", "--train_file", f"{folder}/train.jsonl", "--tokenizer_name", str(folder)]
    sys.argv += ["--max_seq_length", "128", "--doc_stride", "16", "--output_dir", f"{folder}/out", "--cache_dir"]
    sys.argv += [f"{folder}/cache", *(("--preprocessing_num_workers", str(workers)) if workers else ())]
    peak, before, started = [0.0], anonymous_memory(), time.perf_counter()
    threading.Thread(target=watch, args=(peak,), daemon=True).start()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    preprocess.main()
    sys.stdout = sys.__stdout__
    disk = sum(path.stat().st_size for path in (folder / "cache").rglob("*.arrow")) / 2**20
    seconds = time.perf_counter() - started
    print(f"{count:>10,} {before:>10.0f} {peak[0]:>10.0f} {disk:>10.0f} {seconds:>10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.folder, args.sizes[0], args.workers)
    print(f"{'questions':>10} {'MiB before':>10} {'MiB peak':>10} {'MiB disk':>10} {'seconds':>10}", flush=True)
    for size in args.sizes:
        folder = args.folder / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder)
        command = [sys.executable, __file__, str(size), "--folder", folder, "--workers", args.workers, "--measure"]
        subprocess.run([str(item) for item in command], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

"""Measure how long several processes take to compute a step and to exchange its gradients.

    torchrun --nproc_per_node 2 benchmarks/all_reduce.py --model base --batch 8 --tokens 185

Prints median times of the forward and backward pass of ALBERT, with random weights, over one batch, and of one
all-reduce of as many numbers as it has gradients, which is what the processes exchange in every step.
"""

import argparse
import statistics
import time

import torch
from accelerate import PartialState
from transformers import AlbertConfig, AlbertForQuestionAnswering

SIZES = {  # hidden_size, num_attention_heads, intermediate_size, num_hidden_layers
    "base": (768, 12, 3072, 12),
    "xxlarge": (4096, 64, 16384, 12),
}


def median_seconds(work, device: torch.device, times: int) -> float:
    """Return the median time of ``work``, after one run that is not measured."""
    measured = []
    for _ in range(times + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=185)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    state = PartialState(cpu=not torch.accelerator.is_available())
    hidden, heads, inner, layers = SIZES[args.model]
    config = AlbertConfig(
        embedding_size=128,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
        num_hidden_layers=layers,
        hidden_act="gelu_pytorch_tanh",
    )
    model = AlbertForQuestionAnswering(config).to(state.device)
    ids = torch.randint(5, config.vocab_size, (args.batch, args.tokens), device=state.device)
    labels = torch.zeros(args.batch, dtype=torch.long, device=state.device)
    count = sum(parameter.numel() for parameter in model.parameters())
    gradients = torch.zeros(count, device=state.device)

    def step() -> None:
        model(ids, start_positions=labels, end_positions=labels).loss.backward()
        model.zero_grad()

    compute_time = median_seconds(step, state.device, args.times)
    exchange_time = median_seconds(lambda: torch.distributed.all_reduce(gradients), state.device, args.times)
    if state.is_main_process:
        name = torch.cuda.get_device_name() if state.device.type == "cuda" else "CPU"
        print(f"{args.model}: {count / 1e6:.1f} M parameters, {4 * count / 1e6:.1f} MB all-reduced per step")
        print(f"{state.num_processes} x {name}: {compute_time:.3f} s for {args.batch} windows of {args.tokens} tokens")
        print(f"{exchange_time:.3f} s to all-reduce")


if __name__ == "__main__":
    main()

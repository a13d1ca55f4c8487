# SPDX-License-Identifier: Apache-2.0
"""One rank of an unmodified PyTorch program: goes through its weights in order and all-reduces between them."""
import argparse
import json
import os

import torch
import torch.distributed as dist

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    weights = [
        torch.full((32 * MIB // 4,), i, dtype=torch.int32, device="cuda") for i in range(args.bytes // (32 * MIB))
    ]
    wrong_sums = torch.zeros((), dtype=torch.int64, device="cuda")
    for step in range(args.steps):
        for i, weight in enumerate(weights):
            weight.add_(1)
            if i % 8 != 7:
                continue
            gradient = torch.full((4 * MIB,), step + i + rank, dtype=torch.int32, device="cuda")
            dist.all_reduce(gradient)
            wrong_sums += (gradient != ranks * (step + i) + ranks * (ranks - 1) // 2).sum()
    wrong_weights = sum((weight != i + args.steps).sum().item() for i, weight in enumerate(weights))
    dist.destroy_process_group()
    print(json.dumps({"rank": rank, "wrongSums": wrong_sums.item(), "wrongWeights": wrong_weights}), flush=True)


main()

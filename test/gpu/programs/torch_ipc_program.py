# SPDX-License-Identifier: Apache-2.0
"""torch.multiprocessing: tensors of a process whose weights overflow VRAM, shared with a child that adds to them while
the parent keeps computing. Prints how many elements are wrong on either side."""
import json
import sys

import torch
import torch.multiprocessing as multiprocessing

SHARED, ELEMENTS, ROUNDS = 6, 4 << 20, 40


def child(queue, answers):
    tensors = queue.get(timeout=120)
    wrong = sum(int((tensor != index).sum()) for index, tensor in enumerate(tensors))
    for _ in range(ROUNDS):
        for tensor in tensors:
            tensor.add_(1)
    torch.cuda.synchronize()
    answers.put(wrong)
    queue.get(timeout=120)  # the parent has looked


def main():
    weights = [torch.full((16 << 20,), float(i), device="cuda") for i in range(int(sys.argv[1]) // (64 << 20))]
    tensors = [torch.full((ELEMENTS,), float(i), device="cuda") for i in range(SHARED)]
    context = multiprocessing.get_context("spawn")
    queue, answers = context.Queue(), context.Queue()
    process = context.Process(target=child, args=(queue, answers))
    process.start()
    queue.put(tensors)
    total = torch.zeros_like(weights[0])
    for _ in range(ROUNDS):
        for weight in weights:
            total.add_(weight)
    wrong_in_child = answers.get(timeout=120)
    wrong = sum(int((tensor != index + ROUNDS).sum()) for index, tensor in enumerate(tensors))
    wrong_total = int((total != ROUNDS * sum(range(len(weights)))).sum())
    queue.put(None)
    process.join(60)
    print(json.dumps({"wrongInChild": wrong_in_child, "wrong": wrong, "wrongTotal": wrong_total,
                      "exit": process.exitcode}))


if __name__ == "__main__":
    main()

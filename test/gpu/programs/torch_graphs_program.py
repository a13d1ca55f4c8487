# SPDX-License-Identifier: Apache-2.0
"""An unmodified PyTorch program with torch.cuda.graph: a decode step over a stack of layers, and a training step with
AdamW, both captured once and replayed with other inputs. Prints a digest of everything they gave."""
import hashlib
import json

import torch
from torch import nn

WIDTH, LAYERS, STEPS = 4096, 8, 12


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return x + self.down(torch.nn.functional.silu(self.up(self.norm(x))))


def stack(width, layers, dtype):
    with torch.device("cuda"):
        return nn.Sequential(*(Block(width) for _ in range(layers))).to(dtype)


def captured(step, warm_ups=3):
    """Warms up on a side stream, as PyTorch asks, and captures one step. returns: the graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_ups):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def decode(digest):
    model = stack(WIDTH, LAYERS, torch.bfloat16)
    x = torch.linspace(-1, 1, 4 * WIDTH, device="cuda").reshape(4, WIDTH).to(torch.bfloat16)

    def step():
        y = torch.nn.functional.normalize(model(x).float(), dim=-1)
        x.copy_(y.mul(8).to(torch.bfloat16))

    with torch.inference_mode():
        graph = captured(step)
        for number in range(STEPS):
            x.add_(number * 0.01)
            graph.replay()
            digest.update(x.float().cpu().numpy().tobytes())


def train(digest):
    model = stack(2048, 4, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, capturable=True)
    x = torch.zeros(256, 2048, device="cuda")
    losses = torch.zeros(1, device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = (model(x) - x.roll(1, -1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.copy_(loss.detach().reshape(1))

    generator = torch.Generator("cuda").manual_seed(3)
    x.normal_(generator=generator)
    graph = captured(step)
    for _ in range(STEPS):
        x.normal_(generator=generator)
        graph.replay()
        digest.update(losses.cpu().numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())


torch.use_deterministic_algorithms(True)
torch.manual_seed(11)
total = hashlib.sha256()
decode(total)
train(total)
print(json.dumps({"digest": total.hexdigest(), "peakBytes": torch.cuda.max_memory_allocated()}))

"""Times of dense bf16 products in torch.

Reads {"device": "cuda" or "cpu", "runs": n, "cacheBytes": n, "shapes": [[rows, inputs, outputs], …]}
and writes {"torch": version, "milliseconds": [median of each shape]}.
"""

import json
import statistics
import sys
import time

import torch

WARM_UP = 10


def milliseconds_on_gpu(work) -> float:
    begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def milliseconds_on_cpu(work) -> float:
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)


def median_milliseconds(order: dict, rows: int, inputs: int, outputs: int) -> float:
    device = order["device"]
    x = torch.randn(rows, inputs, device=device, dtype=torch.bfloat16)
    weight = torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16)
    # Read before each product: nothing of that is in the cache, and a GPU is not waiting to be asked.
    others = torch.ones(order["cacheBytes"] // 2, device=device, dtype=torch.bfloat16)
    measure = milliseconds_on_gpu if device == "cuda" else milliseconds_on_cpu
    times = []
    for _ in range(WARM_UP + order["runs"]):
        others.max()
        times.append(measure(lambda: torch.nn.functional.linear(x, weight)))
    return statistics.median(times[WARM_UP:])


order = json.load(sys.stdin)
if order["device"] == "cuda" and not torch.cuda.is_available():
    sys.exit("torch sees no GPU")
print(json.dumps({
    "torch": torch.__version__,
    "milliseconds": [median_milliseconds(order, *shape) for shape in order["shapes"]],
}))

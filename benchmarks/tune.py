"""Times classifier tuning and Tip-Adapter's search against PyTorch.

  python -m benchmarks.tune [--json FILE] [--threads N]

Ours is timed after compilation, up to the last number being there. Both sides
see the same arrays and use the same number of threads, one after the other in
each round, so that other work on the machine slows both; the figures are the
medians of the rounds.

The PyTorch loops are written as one would: a DataLoader over the features, and
Tip-Adapter's two nested loops, of which a share is run and scaled up.
"""

import argparse

import numpy as np

from benchmarks import devices, table
from benchmarks.timing import medians

LR, WEIGHT_DECAY, CLIP_NORM, TEMPERATURE, SOFT_WEIGHT = 2e-3, 0.1, 1.0, 2.0, 0.5
SEARCH_SCALE = (12.0, 10.0)  # EuroSAT's


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  rows = tuning_rows(args, device, has_torch)
  rows += search_rows(args, device, has_torch)
  table.show(rows, args.json)


def parser() -> argparse.ArgumentParser:
  """The sizes default to EuroSAT's 8,000 generated images on CLIP-RN50."""
  flags, add = devices.make_parser(__doc__)
  add("rounds", 5, "of which the median is taken")
  add("dim", 1024, "of the features")
  add("rows", 8000, "to tune on")
  add("classes", 10, "to tune")
  add("epochs", 30, "of tuning")
  add("batch", 512, "rows in a step")
  add("search-rows", 2465, "of validation")
  add("search-classes", 100, "in the cache")
  add("shots", 16, "of each class")
  add("betas", 200, "to search")
  add("alphas", 20, "to search")
  add("timed-betas", 2, "that PyTorch runs in a round, to be scaled up")
  return flags


def make_features(
  rng: np.random.Generator, classes: int, num: int, dim: int, noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns features [num, dim], labels [num] and class centres."""
  centres = rng.normal(size=(classes, dim)).astype(np.float32)
  labels = rng.permutation(np.arange(num) % classes)
  noises = rng.normal(0, noise, (num, dim)).astype(np.float32)
  return centres[labels] + noises, labels, centres


def tuning_rows(args, device: str, has_torch: bool) -> list[dict]:
  import jax

  from synthjax.adapt import linear_head

  rng = np.random.default_rng(0)
  features, labels, centres = make_features(
    rng, args.classes, args.rows, args.dim, 3.0
  )
  head = linear_head.init_head(centres[:, None], 100.0)
  index = linear_head.epochs_index(
    args.rows, batch_size=args.batch, num_epochs=args.epochs, seed=0
  )
  on_device = jax.device_put((features, labels, head, index))

  def ours():
    features, labels, head, index = on_device
    rows = linear_head.Rows(features, labels, index)
    tuned = linear_head.tune([rows], head)
    return jax.block_until_ready(tuned)

  functions = {"ours": ours}
  if has_torch:
    weight = np.array(head.weight)
    arrays = features, labels, weight, index
    functions |= {
      "DataLoader": lambda: torch_tuning(*arrays, loader=True),
      "index batches": lambda: torch_tuning(*arrays, loader=False),
    }
  seconds = medians(functions, args.rounds)
  name = f"classifier tuning, {len(index)} steps of {args.batch}"
  return [
    table.row(
      f"{name}, against {kind}",
      "s",
      seconds["ours"],
      seconds.get(kind),
      device=device,
    )
    for kind in ("DataLoader", "index batches")
  ]


def torch_tuning(features, labels, weight, index, *, loader: bool):
  """Tunes a head as `linear_head.tune` does; returns its weight."""
  import torch
  from torch.nn import functional as F

  from benchmarks import torch_timing

  device = torch_timing.place()
  features = torch.from_numpy(features).to(device)
  labels = torch.from_numpy(labels).to(device)
  head = torch.nn.Linear(weight.shape[1], len(weight)).to(device)
  head.load_state_dict(
    {"weight": torch.tensor(weight), "bias": torch.zeros(len(weight))}
  )
  teacher = torch.nn.Linear(weight.shape[1], len(weight)).to(device)
  teacher.load_state_dict(head.state_dict())
  tx = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tx, len(index))

  def loaded():
    data = torch.utils.data.TensorDataset(features, labels)
    size = index.shape[1]
    batches = torch.utils.data.DataLoader(data, batch_size=size, shuffle=True)
    for _ in range(len(index) // len(batches)):
      yield from batches

  def indexed():
    for rows in torch.from_numpy(index).long().to(device):
      rows = rows[rows >= 0]
      yield features[rows], labels[rows]

  for x, y in loaded() if loader else indexed():
    x = x / x.norm(dim=-1, keepdim=True)
    logits = head(x)
    with torch.no_grad():
      targets = F.softmax(teacher(x) / TEMPERATURE, dim=-1)
    soft = -(targets * F.log_softmax(logits, dim=-1)).sum(-1).mean()
    hard = F.cross_entropy(logits, y)
    loss = SOFT_WEIGHT * soft + (1 - SOFT_WEIGHT) * hard
    tx.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP_NORM)
    tx.step()
    schedule.step()
  return head.weight.detach().cpu().numpy()


def search_rows(args, device: str, has_torch: bool) -> list[dict]:
  import jax

  from synthjax.adapt import linear_head, tip_adapter

  rng = np.random.default_rng(1)
  classes, shots = args.search_classes, args.shots
  num_shots = classes * shots
  features, labels, centres = make_features(
    rng, classes, num_shots + args.search_rows, args.dim, 4.0
  )
  # Texts that know less of the classes than the shots do.
  texts = centres + rng.normal(0, 6, centres.shape).astype(np.float32)
  head = linear_head.init_head(texts[:, None], 100.0)
  cache = tip_adapter.build_cache(
    features[None, :num_shots], labels[:num_shots], classes
  )
  validation = features[num_shots:], labels[num_shots:]
  on_device = jax.device_put((cache, head, *validation))

  def ours():
    result = tip_adapter.search(
      *on_device,
      scale=tip_adapter.Strengths(*SEARCH_SCALE),
      steps=(args.betas, args.alphas),
    )
    return jax.block_until_ready(result)

  functions = {"ours": ours}
  timed = min(args.timed_betas, args.betas)
  if has_torch:
    keys = np.asarray(cache.keys)[np.asarray(cache.filled)]
    values = np.eye(classes, dtype=np.float32)[np.repeat(range(classes), shots)]
    grid = [
      [0.1 + i * (end - 0.1) / num for i in range(num)]
      for num, end in zip((args.betas, args.alphas), SEARCH_SCALE, strict=True)
    ]
    functions["torch"] = lambda: torch_search(
      keys, values, np.array(head.weight), *validation, grid[0][:timed], grid[1]
    )
  seconds = medians(functions, args.rounds)
  reference = seconds["torch"] * args.betas / timed if has_torch else None
  name = f"Tip-Adapter's search, {args.betas} x {args.alphas}"
  share = f" (reference: {timed}/{args.betas} of it, scaled up)"
  return [
    table.row(
      name + share * (timed < args.betas and has_torch),
      "s",
      seconds["ours"],
      reference,
      device=device,
    )
  ]


def torch_search(keys, values, weight, features, labels, betas, alphas):
  """Runs the nested loops; returns the best accuracy, beta and alpha."""
  import torch

  from benchmarks import torch_timing

  device = torch_timing.place()
  keys, values, weight, features, labels = (
    torch.from_numpy(array).to(device)
    for array in (keys, values, weight, features, labels)
  )
  features = features / features.norm(dim=-1, keepdim=True)
  best = (0.0, 0.0, 0.0)
  for beta in betas:
    for alpha in alphas:
      affinity = features @ keys.T
      votes = (-(beta - beta * affinity)).exp() @ values
      logits = features @ weight.T + alpha * votes
      right = logits.topk(1)[1][:, 0] == labels
      accuracy = right.float().mean().item()
      if accuracy > best[0]:
        best = accuracy, beta, alpha
  return best


if __name__ == "__main__":
  main()

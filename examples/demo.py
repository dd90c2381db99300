"""Trains a small language model on Python's own documentation, then LoRA-tunes it.

Everything happens on this machine: the text is the standard library's, the model starts from
random weights, and the trainer is the Rust one. `make demo` runs it; the files are in `demo/`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlx_graft as mg
import stdlib_text
import tiny_llama
from mlx_graft.bench.models import write_random_weights

SEED = 0
BASE = {"iters": 1200, "batch_size": 4, "learning_rate": 3e-3, "max_seq_length": 256}
TUNE = {"iters": 400, "batch_size": 4, "learning_rate": 1e-3, "max_seq_length": 256}
LORA = {"rank": 16, "scale": 4.0, "num_layers": tiny_llama.CONFIG["num_hidden_layers"]}


class History:
    """Collects the losses that the trainer reports, for the plot."""

    def __init__(self) -> None:
        self.train: list[tuple[int, float]] = []
        self.valid: list[tuple[int, float]] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """Keeps a training loss."""
        self.train.append((train_info["iteration"], train_info["train_loss"]))

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        """Keeps a validation loss."""
        self.valid.append((val_info["iteration"], val_info["val_loss"]))


def config(options: dict[str, Any], folder: Path) -> mg.TrainConfig:
    """Returns a training configuration: a warm-up, then a cosine down to a tenth of the rate."""
    iters, rate = options["iters"], options["learning_rate"]
    return mg.TrainConfig(
        **options,
        optimizer="adamw",
        optimizer_config={"adamw": {"betas": [0.9, 0.98], "bias_correction": True}},
        lr_schedule={
            "name": "cosine_decay",
            "warmup": iters // 20,
            "arguments": [rate, iters, rate / 10],
        },
        steps_per_report=max(iters // 50, 1),
        steps_per_eval=max(iters // 5, 1),
        val_batches=8,
        save_every=iters,
        adapter_path=folder,
        seed=SEED,
    )


def train_base(folder: Path, splits: dict[str, stdlib_text.Text], scale: float) -> History:
    """Trains the base model in full, from random weights; keeps the result for the next run."""
    options = {**BASE, "iters": max(int(BASE["iters"] * scale), 1)}
    stamp = json.dumps([options, tiny_llama.CONFIG, SEED, sys.version_info[:3]])
    done = folder / "trained.json"
    history = History()
    if done.exists():
        kept = json.loads(done.read_text())
        if kept["stamp"] == stamp:
            print(f"The base model of an earlier run is in {folder}: not trained again.")
            history.train, history.valid = kept["train"], kept["valid"]
            return history
        done.unlink()

    everything = splits["base"].documents + [p["prompt"] for p in splits["base"].pairs]
    tiny_llama.write_tokenizer(folder, everything)
    size = write_random_weights(folder, SEED, tiny_llama.CONFIG)
    print(f"Base model: {size / 1e6:.1f} million parameters, random.")
    data = stdlib_text.write_rows(
        folder / "data",
        train=[{"text": text} for text in splits["base"].documents],
        valid=[{"text": text} for text in splits["valid"].documents],
    )
    model, tokenizer = mg.load(folder)
    model.unfreeze()
    train, valid, _ = mg.load_dataset(data, tokenizer)
    trainer = mg.Trainer(model, config(options, folder / "run"))
    trainer.fit(train, valid, callbacks=[history])
    model.save_weights(folder)
    done.write_text(json.dumps({"stamp": stamp, "train": history.train, "valid": history.valid}))
    return history


def unigram_loss(train: Any, test: Any, vocab_size: int) -> float:
    """Returns the held-out loss of the best guess without context: each token's frequency."""

    def completions(dataset: Any) -> list[int]:
        rows = (dataset[index] for index in range(len(dataset)))
        return [token for tokens, offset in rows for token in tokens[offset:]]

    counts = Counter(completions(train))
    total = counts.total() + vocab_size  # one added to each, for tokens never seen
    held_out = completions(test)
    return -sum(math.log((counts[token] + 1) / total) for token in held_out) / len(held_out)


def show_samples(model: mg.Model, tokenizer: mg.Tokenizer, rows: list[dict[str, str]]) -> None:
    """Prints what the model writes for functions it never saw."""
    for row in rows:
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        text = mg.generate(model, tokenizer, prompt, max_tokens=48, temp=0.3, top_p=0.9)
        text = text.split('"""')[0]
        print(f"  {row['prompt'].splitlines()[0][:90]}")
        print(f"    model:  {text.strip()}")
        print(f"    Python: {row['completion'][:160]}\n")


def plot(path: Path, base: History, tune: History, unigram: float, before: float) -> None:
    """Draws both trainings' losses."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    names = ("base model: documented signatures", "LoRA: function → docstring")
    for axis, history, name in zip(axes, (base, tune), names, strict=True):
        for losses, label in ((history.train, "training"), (history.valid, "validation")):
            axis.plot(*zip(*losses, strict=True), marker=".", label=label)
        axis.set(title=name, xlabel="iteration", ylabel="loss per token (nats)")
        axis.grid(alpha=0.3)
    axes[1].axhline(unigram, linestyle=":", color="grey", label="unigram, held out")
    axes[1].axhline(before, linestyle="--", color="grey", label="base model, held out")
    for axis in axes:
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all files")
    parser.add_argument("--scale", type=float, default=1.0, help="scales both numbers of steps")
    arguments = parser.parse_args()
    out: Path = arguments.output
    start = time.perf_counter()

    print("Reading the standard library ...")
    splits = stdlib_text.collect()
    for name, text in splits.items():
        print(f"  {name:5}  {len(text.documents):5} documents, {len(text.pairs):5} pairs")

    print("\n1. A base model, trained in full by the Rust trainer")
    base = train_base(out / "base", splits, arguments.scale)

    print("\n2. An adapter that writes the docstring of a function")
    model, tokenizer = mg.load(out / "base")
    pairs = {"train": "tune", "valid": "valid", "test": "test"}
    data = stdlib_text.write_rows(
        out / "pairs", **{name: splits[split].pairs for name, split in pairs.items()}
    )
    train, valid, test = mg.load_dataset(data, tokenizer, mask_prompt=True)
    mg.apply_lora(model, **LORA)
    options = {**TUNE, "iters": max(int(TUNE["iters"] * arguments.scale), 1)}
    trainer = mg.Trainer(model, config(options, out / "adapters"))
    before = trainer.evaluate(test)
    tune = History()
    trainer.fit(train, valid, callbacks=[tune])
    model.save_adapters(out / "adapters")
    after = trainer.evaluate(test)

    unigram = unigram_loss(train, test, tokenizer.vocab_size)
    print("\nLoss on held-out modules, per token of the docstring")
    print(f"  unigram model        {unigram:.3f}")
    print(f"  base model           {before:.3f}")
    print(f"  with the adapter     {after:.3f}")

    print("\nDocstrings for functions of held-out modules\n")
    show_samples(model, tokenizer, splits["test"].pairs[::97][:5])
    plot(out / "loss.png", base, tune, unigram, before)
    print(f"Plot: {out / 'loss.png'}   adapter: {out / 'adapters'}")
    print(f"Done in {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
